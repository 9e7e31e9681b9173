"""Generation against the script people write today, on the same rows in the same minute.

    python benchmarks/generate.py --corpus FOLDER[:config] --teacher FOLDER [--split validation] [--rows 640] [--repeats 3]

plain   rows in arrival order, batches of 32 padded to their longest, float32, full softmax over [B, L, V], topk, torch.save
bare    encoder + projection alone, float32 and bfloat16, on sorted batches of real tokens: the floor for any generator
ours    textsmooth from reading the corpus to shards on disk, in process (start-up and planning apart, as for the others)

Prints tokens/s of real (unpadded) tokens, medians over the repeats, which alternate; and ratios.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from textsmooth.pipeline.plan.cut import make_plan
from textsmooth.pipeline.plan.resolve import Request, resolve_request
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.schemas.config import GenerateOptions
from textsmooth.stages.corpus.reader import scan
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.models.device import default_threads
from textsmooth.stages.models.load import load_checked
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.tokens.padding import batches
from textsmooth.stages.tokens.tokenize import tokenize


def texts_of(asked: Request, rows: int) -> list[list[str]]:
    """The text columns of the first rows."""
    file = next(asked.corpus.files)
    found = next(scan(file, asked.identity.text_columns, rows=rows, limit=rows))
    return [found.rows[name] for name in asked.identity.text_columns]


def plain(asked: Request, texts: list[list[str]], folder: Path) -> Callable[[], int]:
    """What people write: returns the number of real tokens."""
    from transformers import AutoModelForMaskedLM

    model = load_checked(AutoModelForMaskedLM, asked.sources.teacher, dtype=torch.float32).eval()
    tokenizer = asked.tokenizer

    def run() -> int:
        tokens, out = 0, []
        with torch.no_grad():
            for start in range(0, len(texts[0]), 32):
                parts = [column[start : start + 32] for column in texts]
                enc = tokenizer(*parts, padding=True, truncation=True, max_length=asked.config.max_length, return_tensors="pt")
                probs = torch.softmax(model(**enc).logits, dim=-1)
                values, ids = probs.topk(asked.config.topk, dim=-1)
                out.append((values.half(), ids.int(), enc["input_ids"], enc["attention_mask"]))
                tokens += int(enc["attention_mask"].sum())
        torch.save(out, folder / "plain.pt")
        return tokens

    return run


def bare(asked: Request, texts: list[list[str]], dtype: torch.dtype) -> Callable[[], int]:
    """Encoder and vocabulary projection over the kept tokens of sorted batches, and nothing else."""
    config = asked.config
    teacher = Teacher(asked.sources.teacher, dtype=dtype)
    pair = texts[1] if len(texts) == 2 else None
    rows = tokenize(asked.tokenizer, texts[0], pair, max_length=config.max_length, vocab_size=asked.teacher.vocab_size)
    ready = list(batches(rows, ~rows.special, max_batch_tokens=config.max_batch_tokens, pad_id=0))

    def run() -> int:
        for _ in chunks(teacher, iter(ready), chunk_tokens=config.chunk_tokens):
            pass
        return len(rows.input_ids)

    return run


def ours(options: GenerateOptions, folder: Path) -> Callable[[], int]:
    """The whole of generation: rows from the corpus to shards and receipts on disk."""
    asked = resolve_request(options)
    plan = make_plan(asked)
    count = 0
    worker: UnitWorker | None = None

    def run() -> int:
        nonlocal count, worker
        out = folder / f"ours{count}"
        count += 1
        if worker is None:
            worker = UnitWorker(plan, asked.sources, open_folder(out))
        worker.out = open_folder(out)
        return sum(receipt.tokens for receipt in worker.run(plan.units))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = GenerateOptions(
        corpus=args.corpus, teacher=args.teacher, splits=(args.split,), limit=args.rows, rows_per_shard=max(args.rows // 2, 64)
    )
    asked = resolve_request(options)
    texts = texts_of(asked, args.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arms: dict[str, Callable[[], int]] = {
            "plain": plain(asked, texts, folder),
            "bare float32": bare(asked, texts, torch.float32),
            "bare bfloat16": bare(asked, texts, torch.bfloat16),
            f"ours ({asked.config.dtype})": ours(options, folder),
        }
        seen: dict[str, list[float]] = {arm: [] for arm in arms}
        tokens: dict[str, int] = {}
        for repeat in range(args.repeats + 1):  # the first is a warm-up
            for arm, run in arms.items():
                start = time.perf_counter()
                tokens[arm] = run()
                if repeat:
                    seen[arm].append(time.perf_counter() - start)
    rates = {arm: [tokens[arm] / s for s in seconds] for arm, seconds in seen.items()}
    print(f"{args.rows} rows, {tokens['plain']:,} tokens, {args.threads} threads, {args.repeats} repeats")
    for arm, found in rates.items():
        against = statistics.median(a / b for a, b in zip(found, rates["plain"], strict=True))
        print(f"{arm:16} {statistics.median(found):9,.0f} tokens/s   {against:5.2f} x plain   ({min(found):,.0f} to {max(found):,.0f})")


if __name__ == "__main__":
    main()
