"""What a GPU does with it: parity, floors, throughput, memory, training. Prints one short table.

    python benchmarks/gpu.py [--device cuda] [--size base] [--rows 65536] [--only parity,floors,throughput,memory,training]

Makes its own teacher (random weights; BERT-base or a small one), tokenizer and corpus (rows as long as those of QNLI), so it needs no
network, no `datasets` and no ray: torch, transformers, pyarrow, numpy and this package on PYTHONPATH (an unzipped wheel will do).
--teacher FOLDER takes a trained one for the parity of numbers that mean something.

parity      soft ids on the device in float32 and bfloat16, against the whole softmax in float64 on the CPU
floors      what encoder and projection must cost by arithmetic, at the matrix and copy rates measured here
throughput  real tokens per second: ours from rows to shards on disk; encoder + projection alone on the same batches; the plain script
memory      peak with and without chunks; what happens when it runs out
training    a 4-layer student: plain, smoothed, and with the teacher in the loop
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textsmooth.pipeline.plan.cut import make_plan
from textsmooth.pipeline.plan.resolve import resolve_request
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.schemas.config import GenerateOptions
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.models.device import device_name
from textsmooth.stages.models.load import load_checked
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.soft_ids.topk import Sparsifier
from textsmooth.stages.tokens.load import load_tokenizer
from textsmooth.stages.tokens.tokenize import TokenRows, tokenize

WORDS = 29_000
QUANTILES = (15, 27, 31, 33, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 57, 60, 63, 67, 75, 87, 250)  # tokens of QNLI's rows, each 5 %
SIZES = {
    "base": {},
    "small": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
}


def make_teacher(folder: Path, size: str) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {
        token: i for i, token in enumerate([*specials, *(f"w{n}" for n in range(WORDS)), *(f"spare{n}" for n in range(30_522))][:30_522])
    }
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, model_max_length=512, **names).save_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZES[size])).save_pretrained(folder)
    return folder


def make_corpus(file: Path, rows: int) -> Path:
    rng = random.Random(0)
    with file.open("w") as out:
        for _ in range(rows):
            step = rng.randrange(len(QUANTILES) - 1)
            words = rng.randint(QUANTILES[step], QUANTILES[step + 1]) - 2
            text = " ".join(f"w{rng.randrange(WORDS)}" for _ in range(words))
            out.write(json.dumps({"text": text, "label": rng.randrange(2)}) + "\n")
    return file


class Bench:
    """Teacher, corpus and device of one run."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.device, self.rows, self.folder = args.device, args.rows, folder
        self.teacher = Path(args.teacher) if args.teacher else make_teacher(folder / "teacher", args.size)
        self.corpus = make_corpus(folder / "rows.jsonl", args.rows)
        self.tokenizer = load_tokenizer(self.teacher)
        self.vocab_size = max(self.tokenizer.get_vocab().values()) + 1

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object], repeats: int = 3) -> float:
        """Median, after a warm-up."""
        found = []
        for repeat in range(repeats + 1):
            self.sync()
            start = time.perf_counter()
            run()
            self.sync()
            if repeat:
                found.append(time.perf_counter() - start)
        return statistics.median(found)

    def load(self, dtype: torch.dtype) -> Teacher:
        return Teacher(self.teacher, dtype=dtype, device=self.device, vocab_size=self.vocab_size, pad_id=0)

    def tokens(self, rows: int) -> TokenRows:
        texts = [json.loads(line)["text"] for line in self.corpus.read_text().splitlines()[:rows]]
        return tokenize(self.tokenizer, texts, None, max_length=512, vocab_size=self.vocab_size)

    def options(self, out: str, **changes: Any) -> GenerateOptions:
        given = {"corpus": str(self.corpus), "teacher": str(self.teacher), "device": self.device, "out": str(self.folder / out), **changes}
        return GenerateOptions(**given)


def say(what: str, value: str) -> None:
    print(f"{what:52} {value}", flush=True)


def parity(bench: Bench) -> None:
    rows = bench.tokens(48)
    wanted = ~rows.special
    exact = load_checked(_masked_lm(), bench.teacher).double().eval()
    dense = []
    for row in range(len(rows)):
        part = slice(rows.row_offsets[row], rows.row_offsets[row + 1])
        ids = torch.from_numpy(rows.input_ids[part].astype(np.int64))[None]
        with torch.no_grad():
            dense.append(exact(input_ids=ids).logits[0, :, : bench.vocab_size].log_softmax(-1)[torch.from_numpy(wanted[part])])
    reference = torch.cat(dense)
    places = np.flatnonzero(wanted)
    for dtype in (torch.float32, torch.bfloat16):
        teacher, sparsify = bench.load(dtype), Sparsifier(topk=32)
        original = torch.from_numpy(rows.input_ids.astype(np.int64)).to(bench.device)
        overlap, worst, variation = [], 0.0, []
        for logits, where in chunks(teacher, teacher.batches(rows, wanted, max_batch_tokens=4096), chunk_tokens=1024):
            soft = sparsify(logits[: len(where)], original[torch.from_numpy(where).to(bench.device)])
            truth = reference[torch.from_numpy(np.searchsorted(places, where))]
            ids, found = soft.ids.cpu(), soft.logprobs.cpu().double()
            best = truth.topk(32).indices
            overlap += [len(set(a) & set(b)) / 32 for a, b in zip(ids.tolist(), best.tolist(), strict=True)]
            there = truth.gather(1, ids)
            worst = max(worst, float((found - there).abs().max()))
            variation.append((found.exp() - there.exp()).abs().sum(1) / 2)
        name = str(dtype).removeprefix("torch.")
        say(f"parity {name}: ids among the top 32, mean", f"{statistics.mean(overlap):.4f}")
        say(f"parity {name}: largest |dlogprob|", f"{worst:.2e}")
        say(f"parity {name}: total variation over the entries, mean", f"{float(torch.cat(variation).mean()):.2e}")


def _masked_lm() -> Any:
    from transformers import AutoModelForMaskedLM

    return AutoModelForMaskedLM


def floors(bench: Bench) -> None:
    size = 8192 if bench.cuda else 1024
    dtype = torch.bfloat16 if bench.cuda else torch.float32
    a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
    rate = 2 * size**3 / bench.seconds(lambda: [a @ b for _ in range(5)]) * 5
    block = torch.empty((1 << 30) if bench.cuda else (1 << 26), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(block)
    copied = 2 * block.numel() / bench.seconds(lambda: target.copy_(block))
    config = bench.load(torch.float32).model.config
    hidden, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    rows = bench.tokens(2048)
    lengths = np.diff(rows.row_offsets)
    smoothed = float((~rows.special).mean())
    attention = 4 * hidden * float((lengths**2).sum() / lengths.sum())
    encoder = layers * (2 * (4 * hidden**2 + 2 * hidden * inner) + attention)
    head = smoothed * 2 * hidden * (hidden + bench.vocab_size)
    say("matrix products, measured", f"{rate / 1e12:.1f} TFLOP/s")
    say("copies, measured (read + write)", f"{copied / 1e9:.0f} GB/s")
    say("arithmetic per token: encoder, head", f"{encoder / 1e6:.1f}, {head / 1e6:.1f} MFLOP")
    say("floor by arithmetic", f"{rate / (encoder + head):,.0f} tokens/s")
    # logits in two bytes, written once and read twice: block maxima, exp
    say("floor by bytes of the logits alone", f"{copied / (smoothed * 3 * 2 * bench.vocab_size):,.0f} tokens/s")


def throughput(bench: Bench) -> None:
    asked = resolve_request(bench.options("ours"))
    plan = make_plan(asked)
    dtype = getattr(torch, asked.config.dtype)
    worker = UnitWorker(plan, asked.sources, open_folder(bench.folder / "warm"))
    list(worker.run(plan.units[:2]))
    worker.out = open_folder(bench.folder / "ours")
    bench.sync()
    start = time.perf_counter()
    receipts = list(worker.run(plan.units))
    wall = time.perf_counter() - start
    tokens = sum(r.tokens for r in receipts)
    ours = tokens / wall
    busy = sum(r.timings["score_s"] for r in receipts) / wall
    slowest = {k: sum(r.timings[k] for r in receipts) for k in ("prepare_s", "score_s", "encode_s", "write_s")}
    del worker

    rows = bench.tokens(min(bench.rows, 16384))

    def bare(teacher: Teacher, ready: list[Any]) -> None:
        for _ in chunks(teacher, ready, chunk_tokens=asked.config.chunk_tokens, use=lambda logits, where: None):
            pass

    teacher = bench.load(dtype)
    ready = list(teacher.batches(rows, ~rows.special, max_batch_tokens=asked.config.max_batch_tokens))
    alone = len(rows.input_ids) / bench.seconds(lambda: bare(teacher, ready))
    say(f"ours, {asked.config.dtype}: rows to shards, {len(plan.units)} units", f"{ours:,.0f} tokens/s, device busy {busy:.1%}")
    say("  seconds: prepare, score, encode, write", ", ".join(f"{s:.1f}" for s in slowest.values()))
    say("encoder + projection alone, same settings", f"{alone:,.0f} tokens/s: ours is {ours / alone:.2f} of it")
    for kind in (torch.float32, torch.bfloat16) if bench.cuda else (torch.float32,):
        seconds, count = _plain(bench, kind, 2048 if bench.cuda else 64)
        name = str(kind).removeprefix("torch.")
        say(f"the plain script, {name}", f"{count / seconds:,.0f} tokens/s: ours is {ours * seconds / count:.1f} x")


def _plain(bench: Bench, dtype: torch.dtype, rows: int) -> tuple[float, int]:
    """Arrival order, 64 rows padded to the longest, full softmax, topk, torch.save: (seconds, real tokens)."""
    model = load_checked(_masked_lm(), bench.teacher, dtype=dtype).eval().to(bench.device)
    texts = [json.loads(line)["text"] for line in bench.corpus.read_text().splitlines()[:rows]]
    count = 0

    def run() -> None:
        nonlocal count
        out, count = [], 0
        with torch.no_grad():
            for start in range(0, len(texts), 64):
                enc = bench.tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt").to(bench.device)
                values, ids = torch.softmax(model(**enc).logits, dim=-1).topk(32, dim=-1)
                out.append((values.half().cpu(), ids.int().cpu(), enc["input_ids"].cpu(), enc["attention_mask"].cpu()))
                count += int(enc["attention_mask"].sum())
        torch.save(out, bench.folder / "plain.pt")

    return bench.seconds(run, repeats=1), count


def memory(bench: Bench) -> None:
    if not bench.cuda:
        say("memory", "only on a GPU")
        return
    rows = bench.tokens(4096)
    teacher, sparsify = bench.load(torch.bfloat16), Sparsifier(topk=32)
    original = torch.from_numpy(rows.input_ids.astype(np.int64)).to(bench.device)

    def run(max_batch_tokens: int, chunk_tokens: int) -> list[Any]:
        source = teacher.batches(rows, ~rows.special, max_batch_tokens=max_batch_tokens)

        def use(logits: torch.Tensor, where: Any) -> Any:
            return sparsify(logits[: len(where)], original[torch.from_numpy(where).to(bench.device)])

        return list(chunks(teacher, source, chunk_tokens=chunk_tokens, use=use))

    for batch, chunk in ((65536, 4096), (65536, 65536), (262144, 4096)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run(batch, chunk)
        say(f"peak memory, batches of {batch:,}, chunks of {chunk:,}", f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    whole = {int(p): ids for soft, where in run(65536, 4096) for p, ids in zip(where, soft.logprobs.cpu(), strict=False)}
    sparsify._buffer = None
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (700 << 20)) / total)
    try:
        halved = {int(p): ids for soft, where in run(65536, 4096) for p, ids in zip(where, soft.logprobs.cpu(), strict=False)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    far = max(float((halved[p] - whole[p]).abs().max()) for p in whole)
    say("with 0.7 GiB to work in: batches and chunks halved", f"{len(halved):,} of {len(whole):,} tokens, largest |dlogprob| {far:.1e}")


def training(bench: Bench) -> None:
    from train_step import InTheLoop, make_step

    from textsmooth.pipeline.generation.run import generate
    from textsmooth.schemas.smoothing import Smoothing
    from textsmooth.stages.dataset.collate import SmoothedCollator
    from textsmooth.stages.dataset.dataset import SmoothedDataset
    from textsmooth.stages.models.student import load_student
    from textsmooth.stages.models.student_init import make_student

    made = generate(bench.options("dataset", limit=2048))
    dataset = SmoothedDataset(made.out, "train")
    layers = tuple(range(min(4, bench.load(torch.float32).model.config.num_hidden_layers)))
    start = bench.folder / "student"
    make_student(bench.teacher, layers, start)

    def student() -> torch.nn.Module:
        found: torch.nn.Module = load_student(start, label_names=("no", "yes"), label_kind="class").to(bench.device)
        return found

    collate, smoothed = SmoothedCollator(pad_id=0), SmoothedCollator(pad_id=0, smoothing=Smoothing())
    on_plain, on_smoothed = make_step(student(), "plain", bench.vocab_size), make_step(student(), "smoothed", bench.vocab_size)
    loop = InTheLoop(student(), load_checked(_masked_lm(), bench.teacher).to(bench.device), 0.5)
    size = 64 if bench.cuda else 8
    batches = [np.arange(n * size, (n + 1) * size) for n in range(min(12, len(dataset) // size))]

    def times(step: Callable[[Any], object]) -> Iterator[float]:
        for rows in batches:
            bench.sync()
            began = time.perf_counter()
            step(rows)
            bench.sync()
            yield time.perf_counter() - began

    arms: dict[str, Callable[[Any], object]] = {
        "plain": lambda rows: on_plain.update([collate(dataset.batch(rows)).to(torch.device(bench.device))], "plain"),
        "smoothed": lambda rows: on_smoothed.update([smoothed(dataset.batch(rows)).to(torch.device(bench.device))], "smoothed"),
        "in the loop": lambda rows: loop.step(collate(dataset.batch(rows)).to(torch.device(bench.device))),
    }
    found = {name: list(times(step))[2:] for name, step in arms.items()}
    for name, seconds in found.items():
        ratio = statistics.median(seconds) / statistics.median(found["plain"])
        say(
            f"a step of {size} rows, {len(layers)}-layer student: {name}",
            f"{1000 * statistics.median(seconds):.1f} ms, {ratio:.2f} x plain",
        )


PARTS: dict[str, Callable[[Bench], None]] = {
    "parity": parity,
    "floors": floors,
    "throughput": throughput,
    "memory": memory,
    "training": training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--teacher")
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--only", default=",".join(PARTS))
    args = parser.parse_args()
    say("device", f"{device_name(args.device)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(args, Path(name))
        for part in args.only.split(","):
            try:
                PARTS[part](bench)
            except Exception as error:  # a part that fails must not cost the others their turn on a machine that is lent
                say(part, f"failed: {type(error).__name__}: {error}")
            if bench.cuda:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
