"""Collect the figures of a smoothed dataset, which `stats` prints and `report` draws.

Figures in the manifest are taken from it and are exact. The rest is counted over a seeded sample of rows, or over all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textsmooth.pipeline.inspect.provenance import provenance
from textsmooth.pipeline.inspect.rows import class_name
from textsmooth.pipeline.inspect.token_counts import Histogram, SmoothedWord, TokenCounts
from textsmooth.pipeline.inspect.token_text import TokenNames, open_tokenizer
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.printable import printable
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.codec import TokenBlock, decode
from textsmooth.stages.soft_ids.statistics import BINS, captured_by_temperature

SAMPLE_TOKENS = 500_000
SAMPLE_SHARDS = 32  # each shard is read and checked as a whole
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
UNLABELLED = "unlabelled"
MANIFEST, SAMPLE, ALL = "manifest", "sample", "all rows"  # source of a figure


@dataclass(frozen=True, kw_only=True)
class SplitFigures:
    """Totals of a split, from the manifest."""

    split: str
    rows: int
    windows: int | None  # where long rows were cut into windows
    tokens: int
    shards: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The rows over which figures missing from the manifest were counted."""

    source: str  # SAMPLE or ALL
    rows: int  # windows, where long rows were cut
    tokens: int
    shards: int
    of_shards: int
    seed: int | None  # of the sample


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of a dataset, or of one of its splits. Logarithms of entropies are to base 2."""

    dataset: str  # path or URI
    name: str  # of the corpus
    splits: tuple[SplitFigures, ...]
    rows: int
    tokens: int
    bytes: int
    bytes_per_token: float
    counted: Counted
    smoothed_share: float  # of the tokens: those with soft ids
    captured_mass: dict[int, float]  # k -> mean probability in the first k entries; empty if no token is smoothed, like the next ones
    captured_mass_by_temperature: dict[float, dict[int, float]]  # as captured_mass, at the stored temperatures other than 1
    reached_mass: float | None  # share of the smoothed tokens whose entries reach the mass cut-off; None without one
    mass: float  # the cut-off
    captured_source: str
    p_original: dict[str, float]  # mean, q05, …; quantiles are the middles of bins of 0.01
    p_original_histogram: Histogram
    p_original_source: str
    entropy: dict[str, float]  # bits; mean and quantiles with the tail as one entry, mean_most with it spread evenly
    entropy_histogram: Histogram
    length: dict[str, float]  # tokens of a row, specials included
    length_histogram: Histogram
    words: tuple[SmoothedWord, ...]  # the most smoothed
    words_at_least: int  # occurrences that a word needs to be listed
    labels: tuple[tuple[str, int], ...]  # of the rows counted
    provenance: tuple[tuple[str, str], ...]

    @property
    def cut(self) -> bool:
        """Whether long rows were cut into windows; windows are then counted instead of rows."""
        return any(part.windows is not None for part in self.splits)

    def to_json(self) -> dict[str, Any]:
        """JSON for programs; figures that do not exist are null."""
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
    """The figures of the dataset at a path or URI: of all its splits together, or of one.

    all_rows: count every row instead of a sample of about SAMPLE_TOKENS tokens from at most SAMPLE_SHARDS shards, drawn with the seed.
    words: number of most smoothed words to list. progress: called with blocks read and blocks in all.
    Raises DatasetError if it is no dataset or damaged, UsageError for an unknown split.
    """
    folder = open_folder(dataset, reading=True)
    manifest = read_manifest(folder)
    names = TokenNames(open_tokenizer(folder, manifest))
    splits = [SmoothedDataset(dataset, name) for name in ([split] if split else manifest.splits)]
    blocks = every_block(splits) if all_rows else sampled_blocks(splits, seed)
    config = GenerationConfig.from_json(manifest.config)
    counts = TokenCounts(names, vocab_size=int(manifest.teacher["vocab_size"]), config=config)
    labels, shards_read = _count_blocks(blocks, counts, words, progress)
    shards = [shard for part in splits for shard in part.shards]
    tokens, size = sum(s.tokens for s in shards), sum(s.bytes for s in shards)
    source = ALL if all_rows or counts.stats.tokens == sum(s.tokens for s in shards) else SAMPLE
    statistics = manifest.statistics if split is None else {}
    return Figures(
        dataset=printable(str(folder)),
        name=printable(str(manifest.corpus["name"])),
        splits=tuple(_split(part) for part in splits),
        rows=sum(s.rows - s.skipped for s in shards),
        tokens=tokens,
        bytes=size,
        bytes_per_token=size / max(tokens, 1),
        counted=Counted(
            source=source,
            rows=counts.rows,
            tokens=counts.stats.tokens,
            shards=shards_read,
            of_shards=len(shards),
            seed=None if all_rows else seed,
        ),
        **_probabilities(statistics, counts, source),
        mass=config.mass,
        entropy=counts.entropy(QUANTILES) if counts.stats.smoothed else {},
        entropy_histogram=counts.entropy_histogram(),
        length=counts.length(QUANTILES),
        length_histogram=counts.length_histogram(),
        words=counts.words(),
        words_at_least=counts.at_least,
        labels=tuple(_named_labels(labels, manifest.corpus["label_names"])),
        provenance=provenance(manifest),
    )


def _count_blocks(
    blocks: "Blocks", counts: TokenCounts, words: int, progress: Callable[[int, int], None] | None
) -> tuple[dict[str | int, int], int]:
    """Read all blocks twice into `counts`; the second pass counts replacements. Returns rows per label, and the number of shards read."""
    labels: dict[str | int, int] = {}  # classes by number
    shards: set[tuple[str, int]] = set()
    for number, (part, shard, block) in enumerate(blocks, 1):
        counts.add(block)
        shards.add((part.name, shard))
        for label, count in _labels(block).items():
            labels[label] = labels.get(label, 0) + count
        if progress:
            progress(number, 2 * len(blocks))
    counts.choose(words)
    for number, (_, _, block) in enumerate(blocks, len(blocks) + 1):
        counts.add_replacements(block)
        if progress:
            progress(number, 2 * len(blocks))
    return labels, len(shards)


def _probabilities(statistics: dict[str, Any], counts: TokenCounts, source: str) -> dict[str, Any]:
    """The fields of Figures about p(original) and captured mass: exact where the manifest's statistics have them, else as counted."""
    stats = counts.stats
    exact_bins = statistics.get("p_original_bins")
    known = statistics if statistics.get("captured_mass") else stats.summary()
    others = captured_by_temperature(known)
    bins = exact_bins or stats.original_bins
    mean = statistics["p_original"]["mean"] if exact_bins else stats.original / max(stats.smoothed, 1)
    smoothed, tokens = (statistics["smoothed_tokens"], statistics["tokens"]) if statistics.get("tokens") else (stats.smoothed, stats.tokens)
    masses = others.pop(1.0, {})
    return {
        "smoothed_share": float(smoothed / max(tokens, 1)),
        "captured_mass": masses if any(bins) else {},
        "captured_mass_by_temperature": others if any(bins) else {},
        "reached_mass": known.get("reached_mass") if any(bins) else None,
        "captured_source": MANIFEST if known is statistics else source,
        "p_original": {"mean": mean, **{f"q{round(100 * q):02d}": _quantile(bins, q) for q in QUANTILES}} if any(bins) else {},
        "p_original_histogram": Histogram(edges=tuple(n / BINS for n in range(BINS + 1)), counts=tuple(int(n) for n in bins)),
        "p_original_source": MANIFEST if exact_bins else source,
    }


Read = tuple[SmoothedDataset, int, TokenBlock]  # split, number of the shard in it, block


class Blocks(Sequence[Read]):
    """Blocks of at most one record batch of rows, each read on access."""

    def __init__(self, spans: Sequence[tuple[SmoothedDataset, int, int, int]]) -> None:
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    def spans(self) -> list[tuple[SmoothedDataset, int, int]]:
        """Split, first sample and last + 1 of each block."""
        return [(part, start, stop) for part, _, start, stop in self._spans]

    def __getitem__(self, number: Any) -> Any:
        part, shard, start, stop = self._spans[number]
        return part, shard, part.batch(np.arange(start, stop))


class EveryBlock(Blocks):
    """All blocks of some splits, as views of the files."""

    def __iter__(self) -> Iterator[Read]:
        parts = list(dict.fromkeys(part for part, *_ in self._spans))
        batches = (batch for part in parts for batch in part.record_batches())
        for (part, shard, _, _), batch in zip(self._spans, batches, strict=True):
            yield part, shard, decode(batch)


def every_block(parts: Sequence[SmoothedDataset]) -> Blocks:
    """The blocks of all rows of the splits, in order."""
    return EveryBlock([(part, n, *span) for part in parts for n in range(len(part.shards)) for span in _record_batches(part, n)])


def sampled_blocks(parts: Sequence[SmoothedDataset], seed: int) -> Blocks:
    """Blocks with about SAMPLE_TOKENS tokens from at most SAMPLE_SHARDS shards, in order: a pure function of datasets and seed."""
    rng = np.random.default_rng(seed)
    shards = [(part, number) for part in parts for number in range(len(part.shards)) if part.shards[number].samples]
    chosen = sorted(rng.permutation(len(shards))[:SAMPLE_SHARDS].tolist())
    spans = [(*shards[at], *span) for at in chosen for span in _record_batches(*shards[at])]
    tokens = [part.shards[shard].tokens * (stop - start) / part.shards[shard].samples for part, shard, start, stop in spans]
    order = rng.permutation(len(spans))
    kept = 1 + int(np.searchsorted(np.cumsum(np.array(tokens)[order]), SAMPLE_TOKENS)) if spans else 0
    return Blocks([spans[at] for at in sorted(order[:kept].tolist())])


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


def _quantile(bins: Sequence[int], q: float) -> float:
    """The q-quantile of values from 0 to 1: the middle of its bin."""
    total = np.cumsum(bins)
    return float((np.searchsorted(total, q * total[-1]) + 0.5) / len(bins))


def _labels(block: TokenBlock) -> dict[str | int, int]:
    """Rows per class, by its number; for float labels and answers, rows with and without one."""
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


def _named_labels(labels: dict[str | int, int], names: list[str] | None) -> list[tuple[str, int]]:
    """Rows per class by name, the most frequent first. Classes with the same name get their number added."""
    shown: dict[str | int, str] = {label: label for label in labels if isinstance(label, str)}
    numbers = sorted(label for label in labels if isinstance(label, int))
    for number in numbers:
        name = class_name(number, names)
        while name in shown.values():
            name = f"{name} (class {number})"
        shown[number] = name
    return sorted(((shown[label], count) for label, count in labels.items()), key=lambda item: -item[1])
