"""Find rows by their number in the corpus, which differs from their position in a partial dataset or after rows were left out."""

from bisect import bisect_left, bisect_right
from functools import partial
from itertools import accumulate
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.manifest import PLAN
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.storage.folder import read_json


def is_part(dataset: SmoothedDataset) -> bool:
    """Whether the dataset has only some shards of the split, or its plan cannot say."""
    if dataset.manifest.partial_of is None:
        return False
    units = _units(dataset)
    return units is None or len(units) != len(dataset.shards)


def shard_spans(dataset: SmoothedDataset) -> list[tuple[int, int]] | None:
    """First row and last + 1 of each shard, without reading shards. None for a partial dataset whose plan does not say."""
    if dataset.manifest.partial_of is None:
        ends = accumulate(shard.rows for shard in dataset.shards)
        return [(end - shard.rows, end) for shard, end in zip(dataset.shards, ends, strict=True)]
    units = _units(dataset) or {}
    spans = []
    for shard in dataset.shards:
        unit = units.get(shard.path.rpartition(".")[0].partition("-")[0])
        if unit is None:
            return None
        spans.append((unit.row + shard.row_offset, unit.row + shard.row_offset + shard.rows))
    return spans


def _units(dataset: SmoothedDataset) -> dict[str, Unit] | None:
    """The planned units of the split, by name; None without a plan."""
    try:
        plan = Plan.from_json(read_json(dataset.folder, PLAN))
    except (FileNotFoundError, DatasetError):
        return None
    return {unit.name: unit for unit in plan.units if unit.split == dataset.name}


def merge_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans, with adjacent ones merged."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        merged.append((merged.pop()[0] if merged and merged[-1][1] == start else start, stop))
    return merged


def sample_positions(dataset: SmoothedDataset, rows: NDArray[np.int64], windows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Positions [R] int64 of rows and windows in the split, -1 for those it does not have. Reads only shards that may have them.

    rows: [R] numbers in the corpus. windows: [R], 0 for a row that was not cut.
    """
    positions = np.full(len(rows), -1, np.int64)
    spans = shard_spans(dataset) or []
    ends = list(accumulate(shard.samples for shard in dataset.shards))
    for i, wanted in enumerate(zip(rows.tolist(), windows.tolist(), strict=True)):
        shard = bisect_right(spans, wanted[0], key=itemgetter(0)) - 1
        if shard >= 0 and wanted[0] < spans[shard][1]:
            samples = range(ends[shard] - dataset.shards[shard].samples, ends[shard])
            at = bisect_left(samples, wanted, key=partial(_number, dataset))
            if at < len(samples) and _number(dataset, samples[at]) == wanted:
                positions[i] = samples[at]
    return positions


def _number(dataset: SmoothedDataset, sample: int) -> tuple[int, int]:
    block = dataset[sample]
    return int(block.row[0]), 0 if block.window is None else int(block.window[0])
