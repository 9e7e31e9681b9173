"""Bytes per token, fidelity and speed of layouts of soft ids, measured on the shards of plain datasets.

    python benchmarks/codec.py DATASET [DATASET …] [--topk 32] [--batches 8] [--most 24]

Every shard of a dataset (256 rows each, in the documented runs) is one record batch of the study. `--batches` of them share a table of
alternatives: the shard of the study. Bytes count all tokens, special ones included. Speed: tokens per second of CPU time, one thread.
For each input token, a table lists the ids that were seen among its entries at least twice, the most frequent first; an entry is then its
place in the table, and an escape where it has none.
Legend: N tokens with entries, K entries of a token.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.codec import decode

Array = NDArray[Any]
CONFIG = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op())
MOST = 255  # alternatives of one input token
EDGES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # ranks that are coded together


@dataclass(frozen=True)
class Batch:
    ids: Array  # [N, K], most probable first
    bits: Array  # [N, K] of float16 log-probabilities
    tokens: Array  # [N] input ids
    tail: Array  # [N] bits
    original: Array  # [N] bits
    count: int  # tokens, special ones included


def batches(folder: Path, topk: int) -> Iterator[Batch]:
    for record_batch in SmoothedDataset(folder, "train").record_batches():
        block = decode(record_batch)
        sizes = np.diff(block.soft.offsets)
        has, widest = sizes > 0, int(sizes.max())
        tail, original = (values[has].view(np.uint16) for values in (block.soft.log_tail, block.soft.original_logprob))
        ids, bits = (values.reshape(-1, widest)[:, :topk] for values in (block.soft.ids, block.soft.logprobs.view(np.uint16)))
        yield Batch(ids, bits, block.input_ids[has], tail, original, len(sizes))


class Meter:
    """Sums bytes and CPU seconds over the batches of a dataset, and prints a row of the table."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.bytes, self.seconds = tokens, 0, np.zeros(2)

    def add(self, pack: Callable[[], bytes], unpack: Callable[[bytes], Any] = lambda data: None) -> None:
        start = time.process_time()
        data = pack()
        middle = time.process_time()
        unpack(data)
        self.bytes, self.seconds = self.bytes + len(data), self.seconds + np.array([middle - start, time.process_time() - middle])

    def row(self, part: str, layout: str, fidelity: str = "exact | 0") -> None:
        encode, decode = (f"{self.tokens / s / 1e6:.1f}" if s > 1e-4 else "-" for s in self.seconds)
        print(f"| {part} | {layout} | {self.bytes / self.tokens:.1f} | {fidelity} | {encode} | {decode} |")


def pco(values: Array, config: ChunkConfig = CONFIG) -> bytes:
    return standalone.simple_compress(np.ascontiguousarray(values).reshape(-1), config)


def zstd(values: Array) -> bytes:
    return pa.compress(np.ascontiguousarray(values).tobytes(), codec="zstd", asbytes=True)  # type: ignore[no-any-return]


def groups(values: Array) -> list[Array]:
    """[N, K] -> its columns by groups of ranks, each rank's values together."""
    return [values[:, low:high].T for low, high in pairwise(e for e in (*EDGES, values.shape[1]) if e <= values.shape[1]) if high > low]


def by_rank(meter: Meter, values: Array) -> None:
    for group in groups(values):
        meter.add(lambda group=group: pco(group), standalone.simple_decompress)


def alternatives(shard: list[Batch]) -> tuple[list[Array], Array]:
    """Place of each entry in the table of its input token, from 1, 0 for none: [N, K] for each batch; and the table's ids."""
    keys = [(batch.tokens.astype(np.int64)[:, None] << 32) | batch.ids for batch in shard]
    pairs, inverse, counts = np.unique(np.concatenate([k.ravel() for k in keys]), return_inverse=True, return_counts=True)
    order = np.lexsort((pairs, -counts, pairs >> 32))
    token = (pairs >> 32)[order]
    place = np.empty(len(pairs), np.int64)
    place[order] = np.arange(len(pairs)) - np.searchsorted(token, token)
    used = (counts > 1) & (place < MOST)
    codes = np.where(used, place + 1, 0).astype(np.uint16)[inverse]
    ends = np.cumsum([k.size for k in keys])[:-1]
    kept = order[used[order]]
    return [c.reshape(k.shape) for c, k in zip(np.split(codes, ends), keys, strict=True)], (pairs & 0xFFFFFFFF)[kept].astype(np.uint16)


def study_ids(study: list[Batch], tokens: int, per_shard: int) -> None:
    raw, small, plain_pco, ranked, ascending = (Meter(tokens) for _ in range(5))
    frequency = np.argsort(np.argsort(-np.bincount(np.concatenate([b.ids.ravel() for b in study])), kind="stable"))
    for batch in study:
        raw.add(lambda b=batch: b.ids.tobytes())
        small.add(lambda b=batch: zstd(b.ids))
        plain_pco.add(lambda b=batch: pco(b.ids), standalone.simple_decompress)
        by_rank(ranked, frequency[batch.ids].astype(np.uint16))
        by_rank(ascending, np.diff(np.sort(batch.ids, axis=1), axis=1, prepend=np.uint16(0)))
    raw.row("ids", "uint16")
    small.row("ids", "zstd")
    plain_pco.row("ids", "pcodec")
    ranked.row("ids", "place by frequency, pcodec by rank")
    ascending.row("ids", "ascending, differences, pcodec by rank (the order is lost)")
    for layout, size in (("table per shard", per_shard), ("table per dataset", len(study))):
        parts = codes_meter, escapes, table = Meter(tokens), Meter(tokens), Meter(tokens)
        for first in range(0, len(study), size):
            shard = study[first : first + size]
            start = time.process_time()
            codes, entries = alternatives(shard)
            codes_meter.seconds[0] += time.process_time() - start
            table.add(lambda entries=entries: pco(np.diff(entries, prepend=np.uint16(0))))
            for code, batch in zip(codes, shard, strict=True):
                by_rank(codes_meter, code)
                escapes.add(lambda code=code, b=batch: pco(b.ids[code == 0]), standalone.simple_decompress)
        whole = Meter(tokens)
        whole.bytes, whole.seconds = sum(p.bytes for p in parts), np.sum([p.seconds for p in parts], axis=0)
        whole.row("ids", f"{layout}: {' + '.join(f'{p.bytes / tokens:.1f}' for p in parts)} (places, escapes, table)")


def fidelity(batch_pairs: list[tuple[Array, Array]], tokens: int) -> str:
    """Mean total variation over all tokens, and largest error of a log-probability above -10; of (true, stored) [N, K] pairs."""
    variation = sum(np.abs(np.exp(a) - np.exp(b)).sum() / 2 for a, b in batch_pairs) / tokens
    return f"{variation:.1e} | {max(np.abs(a - b)[a > -10].max() for a, b in batch_pairs):.2f}"


def study_values(study: list[Batch], tokens: int) -> None:
    raw, small, plain_pco, differences, unordered = (Meter(tokens) for _ in range(5))
    exact = [batch.bits.view(np.float16).astype(np.float64) for batch in study]
    for batch in study:
        raw.add(lambda b=batch: b.bits.tobytes())
        small.add(lambda b=batch: zstd(b.bits))
        plain_pco.add(lambda b=batch: pco(b.bits), standalone.simple_decompress)
        by_rank(differences, np.diff(batch.bits, axis=1, prepend=np.uint16(0)))
        by_rank(unordered, np.take_along_axis(batch.bits, np.argsort(batch.ids, axis=1), axis=1))
    raw.row("log-probabilities", "float16")
    small.row("log-probabilities", "zstd")
    plain_pco.row("log-probabilities", "pcodec")
    differences.row("log-probabilities", "differences, pcodec by rank")
    unordered.row("log-probabilities", "in ascending order of ids, pcodec by rank")
    for layout, code, value in (
        ("8-bit sqrt(-log p)", lambda x: np.sqrt(-x) * 60, lambda c: -((c / 60) ** 2)),
        *(
            (f"sqrt(p) * {s}", lambda x, s=s: np.exp(x / 2) * s, lambda c, s=s: 2 * np.log(np.maximum(c, 0.5) / s))
            for s in (512, 1024, 2048)
        ),
    ):
        meter, pairs = Meter(tokens), []
        for true in exact:
            codes = np.rint(code(true))
            pairs.append((true, value(codes)))
            by_rank(meter, np.abs(np.diff(codes, axis=1, prepend=0)).astype(np.uint16))
        meter.row("log-probabilities", f"{layout}, differences, pcodec by rank", fidelity(pairs, tokens))


def study_distillkit(study: list[Batch], tokens: int, topk: int) -> None:
    """15-bit ids, the first 16 log-probabilities in bfloat16, a fit of six float32 terms for the rest: as DistillKit publishes it."""
    exact = min(16, topk)
    ranks = np.arange(exact, topk) + 1.0
    terms = np.stack([*(ranks**n for n in range(5)), np.sqrt(ranks)], 1)
    meter, pairs = Meter(tokens), []
    for batch in study:
        true = batch.bits.view(np.float16).astype(np.float32)
        start = time.process_time()
        stored = ((true.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float64)
        if topk > exact:
            fit = np.linalg.lstsq(terms, true[:, exact:].T.astype(np.float64), rcond=None)[0].astype(np.float32)
            stored[:, exact:] = np.minimum((terms @ fit).T, 0)
        meter.seconds[0] += time.process_time() - start
        meter.bytes += -(-15 * topk // 8) * len(true) + len(true) * (2 * exact + (24 if topk > exact else 0))
        pairs.append((true.astype(np.float64), stored))
    meter.row("ids and log-probabilities", "DistillKit: 15-bit ids, 16 bfloat16, 6 terms", fidelity(pairs, tokens))


def study_rest(study: list[Batch], tokens: int) -> None:
    for part in ("tail", "original", "tokens"):
        raw, small, packed = Meter(tokens), Meter(tokens), Meter(tokens)
        for batch in study:
            values = getattr(batch, part)
            raw.add(values.tobytes)
            small.add(lambda v=values: zstd(v))
            packed.add(lambda v=values: pco(v), standalone.simple_decompress)
        name = {"tail": "log_tail", "original": "original_logprob", "tokens": "input_ids"}[part]
        for layout, meter in (("raw", raw), ("zstd", small), ("pcodec", packed)):
            meter.row(name, layout)
    outside = Meter(tokens)
    for batch in study:
        own = batch.ids == batch.tokens[:, None]
        outside.add(lambda b=batch, own=own: pco(b.original[~own.any(1)]))
    outside.row("original_logprob", "only where the input token is not among the entries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--topk", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--most", type=int, default=None, help="record batches to read")
    args = parser.parse_args()
    for folder in args.datasets:
        study = list(islice(batches(folder, args.topk), args.most))
        tokens = sum(batch.count for batch in study)
        print(f"\n{folder.name}, k = {args.topk}, {tokens:,} tokens in {len(study)} record batches, {args.batches} a shard\n")
        print("| part | layout | bytes a token | total variation | largest error | written, M tokens/s | read |")
        print("|---|---|--:|--:|--:|--:|--:|")
        study_ids(study, tokens, args.batches)
        study_values(study, tokens)
        study_distillkit(study, tokens, args.topk)
        study_rest(study, tokens)


if __name__ == "__main__":
    main()
