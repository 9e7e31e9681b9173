"""Collated tokens per second of our stream beside the same rows through `datasets` in torch format; memory over many epochs.

    python benchmarks/loader.py DATASET [--split train] [--batch-tokens 8192 | --batch-size 64] [--draws M]
                                       [--rounds 5] [--batches 40] [--epochs 20]

ours      SmoothedDataset.stream with a SmoothedCollator (soft ids at lam 0.5, all entries, or M drawn): a mixed distribution for every
          position
datasets  load_dataset(DATASET).with_format("torch"), rows as its loaders fetch them, input_ids, soft_ids and soft_logprobs padded to
          [B, L, K]: no smoothing yet

One thread, one process, seconds of processor time; the rounds of both take turns on the same batches. Prints the median of the rounds
and of their ratios.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset


def plain_collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What one writes: tokens padded to [B, L], entries to [B, L, K]."""

    def entries(name: str) -> torch.Tensor:
        tokens = [t if isinstance(t, torch.Tensor) else torch.as_tensor(t) for row in rows for t in row[name]]
        flat = pad_sequence(tokens, batch_first=True)
        return pad_sequence(list(flat.split([len(row[name]) for row in rows])), batch_first=True)

    ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": pad_sequence([torch.ones_like(row["input_ids"]) for row in rows], batch_first=True),
        "soft_ids": entries("soft_ids"),
        "soft_logprobs": entries("soft_logprobs"),
    }


def memory() -> tuple[float, float]:
    """MB of this process's own memory, and all that is resident, mapped files included."""
    found = dict(re.findall(r"(RssAnon|VmRSS):\s+(\d+) kB", Path("/proc/self/status").read_text()))
    return int(found["RssAnon"]) / 1e3, int(found["VmRSS"]) / 1e3


def timed(batches: Iterator[int]) -> float:
    """Tokens per second of processor time: that of a core alone, also where others use the machine."""
    start = time.process_time()
    return sum(batches) / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--draws", type=int, metavar="M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40, help="of a round; of datasets' a tenth")
    parser.add_argument("--epochs", type=int, default=20, help="whole epochs over which memory is watched")
    args = parser.parse_args()
    torch.set_num_threads(1)

    dataset = SmoothedDataset(args.dataset, args.split)
    pad = dataset.manifest.special_ids["pad"] or 0
    collate = SmoothedCollator(pad_id=pad, smoothing=Smoothing(draws=args.draws), temperatures=dataset.temperatures)
    stream = dataset.stream(collate, batch_size=args.batch_size, batch_tokens=args.batch_tokens)
    print(f"{args.dataset}: {len(dataset):,} rows, {sum(s.tokens for s in dataset.shards):,} tokens, k {dataset.manifest.config['topk']}")

    def ours(batches: int) -> Iterator[int]:
        stream.set_epoch(1)
        stream.set_epoch(0)
        for batch in islice(stream, batches):
            yield batch.tokens

    with tempfile.TemporaryDirectory() as cache:
        theirs = other(args.dataset, args.split, cache, stream.global_batches(0).after)
        kinds: dict[str, Callable[[], Iterator[int]]] = {
            "ours": lambda: ours(args.batches),
            "datasets": lambda: theirs(max(args.batches // 10, 1)),
        }
        for measure in kinds.values():  # shards are compared with the manifest, pages come from the disk
            timed(measure())
        rounds = [{name: timed(measure()) for name, measure in kinds.items()} for _ in range(args.rounds)]
    for name in kinds:
        found = [r[name] for r in rounds]
        print(f"{name:9} {statistics.median(found):12,.0f} tokens/s  ({min(found):,.0f} to {max(found):,.0f})")
    print(f"ratio     {statistics.median(r['ours'] / r['datasets'] for r in rounds):12.1f}")

    for epoch in range(args.epochs):
        stream.set_epoch(epoch)
        rate = timed(batch.tokens for batch in stream)
        own, resident = memory()
        print(f"epoch {epoch:2}: {rate:11,.0f} tokens/s, {own:7.1f} MB own memory, {resident:7.1f} MB resident with mapped files")


def other(folder: str, split: str, cache: str, batches: Callable[..., Any]) -> Callable[[int], Iterator[int]]:
    """The same batches through `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset(folder, split=split, cache_dir=cache)
    rows = rows.select_columns(["input_ids", "soft_ids", "soft_logprobs"]).with_format("torch")

    def run(count: int) -> Iterator[int]:
        for batch in islice(batches(0, 0), count):
            made = plain_collate(rows.__getitems__(batch.rows.tolist()))
            yield int(made["attention_mask"].sum())

    return run


if __name__ == "__main__":
    main()
