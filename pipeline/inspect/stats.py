"""The figures of a smoothed dataset: what `stats` prints and `report` draws.

What the manifest has is taken from there, exactly; the rest is counted over a seeded sample of rows, or over all of them.
Legend: N tokens, E entries, V vocabulary, W words.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textsmooth.pipeline.inspect.provenance import provenance
from textsmooth.pipeline.inspect.rows import class_name
from textsmooth.pipeline.inspect.token_counts import Histogram, SmoothedWord, Tally
from textsmooth.pipeline.inspect.token_text import TokenNames, open_tokenizer
from textsmooth.schemas.printable import printable
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.codec import TokenBlock, decode
from textsmooth.stages.soft_ids.statistics import BINS

SAMPLE_TOKENS = 500_000
SAMPLE_SHARDS = 32  # each is read and checked as a whole
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
UNLABELLED = "unlabelled"
MANIFEST, SAMPLE, ALL = "manifest", "sample", "all rows"  # where a figure comes from


@dataclass(frozen=True, kw_only=True)
class SplitFigures:
    """What the manifest says of a split."""

    split: str
    rows: int
    windows: int | None  # where long rows were cut into windows
    tokens: int
    shards: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What the figures that are not in the manifest were counted over."""

    source: str  # SAMPLE or ALL
    rows: int  # windows, where long rows were cut
    tokens: int
    shards: int
    of_shards: int
    seed: int | None  # of the sample


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of a dataset, or of one of its splits. Logarithms of entropies are to base 2."""

    dataset: str  # where it lies
    name: str  # of the corpus
    splits: tuple[SplitFigures, ...]
    rows: int
    tokens: int
    bytes: int
    bytes_per_token: float
    counted: Counted
    smoothed_share: float  # of the tokens: those with soft ids
    captured_mass: dict[int, float]  # k -> mean probability inside the first k entries; empty where no token is smoothed, as are:
    captured_source: str
    p_original: dict[str, float]  # mean, q05 …: quantiles are the middles of bins of 0.01, as the manifest has them
    p_original_histogram: Histogram
    p_original_source: str
    entropy: dict[str, float]  # bits: mean and quantiles with the tail counted as one entry; mean_most with it spread evenly
    entropy_histogram: Histogram
    length: dict[str, float]  # tokens of a row, specials included
    length_histogram: Histogram
    words: tuple[SmoothedWord, ...]  # the most smoothed
    words_at_least: int  # times that a word has to occur to be among them
    labels: tuple[tuple[str, int], ...]  # of the rows counted
    provenance: tuple[tuple[str, str], ...]

    @property
    def cut(self) -> bool:
        """Whether long rows were cut into windows; then these are what is counted."""
        return any(part.windows is not None for part in self.splits)

    def to_json(self) -> dict[str, Any]:
        """For programs: a figure that there is none of is null."""
        of_smoothed = {name: asdict(self)[name] or None for name in ("captured_mass", "p_original", "entropy")}
        return asdict(self) | of_smoothed | {"provenance": dict(self.provenance), "labels": dict(self.labels)}


def figures(
    dataset: Path | str,
    *,
    split: str | None = None,
    all_rows: bool = False,
    seed: int = 0,
    words: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> Figures:
    """The figures of a dataset at a path or URI: of all its splits, or of one.

    all_rows: count over every row, not over a sample drawn by the seed (about SAMPLE_TOKENS tokens of at most SAMPLE_SHARDS shards).
    words: how many of the most smoothed are told. progress: called with blocks read and blocks in all.
    DatasetError if it is none, or damaged; UsageError for a split that is not there.
    """
    folder = open_folder(dataset, reading=True)
    manifest = read_manifest(folder)
    names = TokenNames(open_tokenizer(folder, manifest))
    opened = [SmoothedDataset(dataset, name) for name in ([split] if split else manifest.splits)]
    reading = every_block(opened) if all_rows else sampled_blocks(opened, seed)
    tally = Tally(names, vocab_size=int(manifest.teacher["vocab_size"]), topk=int(manifest.config["topk"]))
    labels: dict[str | int, int] = {}  # classes by number
    touched: set[tuple[str, int]] = set()
    passes = 2  # the second counts what stands in place of the most smoothed words
    total = passes * len(reading)
    for number, (part, shard, block) in enumerate(reading, 1):
        tally.add(block)
        touched.add((part.name, shard))
        for label, count in _labels(block).items():
            labels[label] = labels.get(label, 0) + count
        if progress:
            progress(number, total)
    tally.choose(words)
    for number, (_, _, block) in enumerate(reading, len(reading) + 1):
        tally.add_replacements(block)
        if progress:
            progress(number, total)
    shards = [shard for name in opened for shard in name.shards]
    counted = Counted(
        source=ALL if all_rows or tally.stats.tokens == sum(s.tokens for s in shards) else SAMPLE,
        rows=tally.rows,
        tokens=tally.stats.tokens,
        shards=len(touched),
        of_shards=len(shards),
        seed=None if all_rows else seed,
    )
    told = manifest.statistics if split is None else {}
    tokens, size = sum(s.tokens for s in shards), sum(s.bytes for s in shards)
    captured, bins = told.get("captured_mass"), told.get("p_original_bins")
    mean = told["p_original"]["mean"] if bins else tally.stats.original / max(tally.stats.smoothed, 1)
    bins = bins or tally.stats.original_bins
    masses = {int(k): float(v) for k, v in captured.items()} if captured else tally.stats.captured()
    return Figures(
        dataset=printable(str(folder)),
        name=printable(str(manifest.corpus["name"])),
        splits=tuple(_split(part) for part in opened),
        rows=sum(s.rows - s.skipped for s in shards),
        tokens=tokens,
        bytes=size,
        bytes_per_token=size / max(tokens, 1),
        counted=counted,
        smoothed_share=_share(told, tally),
        captured_mass=masses if any(bins) else {},
        captured_source=MANIFEST if captured else counted.source,
        p_original={"mean": mean, **{f"q{round(100 * q):02d}": _quantile(bins, q) for q in QUANTILES}} if any(bins) else {},
        p_original_histogram=Histogram(edges=tuple(n / BINS for n in range(BINS + 1)), counts=tuple(int(n) for n in bins)),
        p_original_source=MANIFEST if told.get("p_original_bins") else counted.source,
        entropy=tally.entropy(QUANTILES) if tally.stats.smoothed else {},
        entropy_histogram=tally.entropy_histogram(),
        length=tally.length(QUANTILES),
        length_histogram=tally.length_histogram(),
        words=tally.words(),
        words_at_least=tally.at_least,
        labels=tuple(_named(labels, manifest.corpus["label_names"])),
        provenance=provenance(manifest),
    )


Read = tuple[SmoothedDataset, int, TokenBlock]  # a block, and which shard of which split it is of


class Blocks(Sequence[Read]):
    """Blocks of at most a record batch of rows, read when they are asked for."""

    def __init__(self, places: Sequence[tuple[SmoothedDataset, int, int, int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def places(self) -> list[tuple[SmoothedDataset, int, int]]:
        """Which rows they hold: split, first sample, last + 1."""
        return [(part, start, stop) for part, _, start, stop in self._places]

    def __getitem__(self, number: Any) -> Any:
        part, shard, start, stop = self._places[number]
        return part, shard, part.batch(np.arange(start, stop))


class EveryBlock(Blocks):
    """All blocks, as views of the files."""

    def __iter__(self) -> Iterator[Read]:
        parts = list(dict.fromkeys(part for part, *_ in self._places))
        batches = (batch for part in parts for batch in part.record_batches())
        for (part, shard, _, _), batch in zip(self._places, batches, strict=True):
            yield part, shard, decode(batch)


def every_block(parts: Sequence[SmoothedDataset]) -> Blocks:
    """All rows of the splits, in order."""
    return EveryBlock(
        [(part, number, *place) for part in parts for number in range(len(part.shards)) for place in _record_batches(part, number)]
    )


def sampled_blocks(parts: Sequence[SmoothedDataset], seed: int) -> Blocks:
    """About SAMPLE_TOKENS tokens out of at most SAMPLE_SHARDS shards, in order: a pure function of the datasets and the seed."""
    rng = np.random.default_rng(seed)
    shards = [(part, number) for part in parts for number in range(len(part.shards)) if part.shards[number].samples]
    chosen = sorted(rng.permutation(len(shards))[:SAMPLE_SHARDS].tolist())
    places = [(*shards[at], *place) for at in chosen for place in _record_batches(*shards[at])]
    tokens = [part.shards[shard].tokens * (stop - start) / part.shards[shard].samples for part, shard, start, stop in places]
    order = rng.permutation(len(places))
    kept = 1 + int(np.searchsorted(np.cumsum(np.array(tokens)[order]), SAMPLE_TOKENS)) if places else 0
    return Blocks([places[at] for at in sorted(order[:kept].tolist())])


def _record_batches(part: SmoothedDataset, number: int) -> Iterator[tuple[int, int]]:
    """First sample and last + 1 of each record batch of a shard."""
    first = sum(shard.samples for shard in part.shards[:number])
    stop = first + part.shards[number].samples
    for start in range(first, stop, ROWS_PER_RECORD_BATCH):
        yield start, min(start + ROWS_PER_RECORD_BATCH, stop)


def _split(part: SmoothedDataset) -> SplitFigures:
    windows = [shard.windows for shard in part.shards if shard.windows is not None]
    return SplitFigures(
        split=printable(part.name),
        rows=sum(shard.rows - shard.skipped for shard in part.shards),
        windows=sum(windows) if windows else None,
        tokens=sum(shard.tokens for shard in part.shards),
        shards=len(part.shards),
        bytes=sum(shard.bytes for shard in part.shards),
    )


def _share(told: dict[str, Any], tally: Tally) -> float:
    if told.get("tokens"):
        return float(told["smoothed_tokens"] / told["tokens"])
    return tally.stats.smoothed / max(tally.stats.tokens, 1)


def _quantile(bins: Sequence[int], q: float) -> float:
    """The q-quantile of numbers from 0 to 1, to within a bin."""
    total = np.cumsum(bins)
    return float((np.searchsorted(total, q * total[-1]) + 0.5) / len(bins))


def _labels(block: TokenBlock) -> dict[str | int, int]:
    """How often each class occurs, by its number; for values and answers, how many rows have one."""
    if block.spans is not None:
        has = int((block.spans > 0).any(1).sum())
        return {"with an answer": has, "without": len(block) - has}
    if block.label is None:
        return {}
    if block.label.dtype.kind == "f":
        has = int(np.isfinite(block.label).sum())
        return {"with a value": has, UNLABELLED: len(block) - has}
    values, counts = np.unique(np.maximum(block.label, -1), return_counts=True)
    return {value if value >= 0 else UNLABELLED: count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}


def _named(labels: dict[str | int, int], names: list[str] | None) -> list[tuple[str, int]]:
    """Classes by name, the most frequent first; those that are called the same are told apart by their numbers."""
    found: dict[str | int, str] = {label: label for label in labels if isinstance(label, str)}
    numbers = sorted(label for label in labels if isinstance(label, int))
    for number in numbers:
        name = class_name(number, names)
        while name in found.values():
            name = f"{name} (class {number})"
        found[number] = name
    return sorted(((found[label], count) for label, count in labels.items()), key=lambda item: -item[1])
