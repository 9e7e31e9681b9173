"""Reading order and random access over a smoothed dataset: which rows come when, and what they hold.

The order of an epoch is a pure function of (dataset digest, seed, epoch, ORDER_VERSION):

    shards 0 1 2 3        as in the manifest
           2 0 3 1        permuted as a whole: the sequence of rows
    |--window--|--window--|…    the sequence is cut every WINDOW_ROWS rows, each window is shuffled in itself

so that position p of an epoch is found by shuffling one window, and a window touches few shards.
Legend: R rows, N tokens, E entries, S extra temperatures.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.canonical import digest, file_sha256
from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.manifest import AGAIN, Manifest
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages import cache
from textsmooth.stages.codec import TokenBlock, decode
from textsmooth.stages.folder import LocalFolder, open_folder, read_manifest
from textsmooth.stages.shard import ShardReader

ORDER_VERSION = 1  # raised when the same inputs would give another order
WINDOW_ROWS = 65_536
OPEN_SHARDS = 256  # at once: each holds a file descriptor
CACHED_TOKENS = 16_000_000  # tokens whose decoded offsets (8 bytes each) are kept


def _shuffled(count: int, key: str) -> NDArray[np.int64]:
    """A permutation of range(count) that depends on `key` alone: not on the numpy version, not on the machine.

    Rows are sorted by the splitmix64 hash of their number, started from the key's sha256; ties keep their order.
    """
    start = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.argsort(z, kind="stable").astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """The order in which an epoch visits the rows of a split, as global row indices. Every row comes exactly once."""

    shard_rows: tuple[int, ...]  # rows of each shard, in the manifest's order
    dataset: str  # digest
    seed: int
    epoch: int
    window_rows: int = WINDOW_ROWS

    def __len__(self) -> int:
        return sum(self.shard_rows)

    @cached_property
    def _key(self) -> str:
        return digest({"dataset": self.dataset, "seed": self.seed, "epoch": self.epoch, "version": ORDER_VERSION})

    @cached_property
    def _shards(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the permuted shards: positions [shards + 1] where each begins in the sequence; global index of its first row."""
        sizes = np.array(self.shard_rows, np.int64)
        permuted = _shuffled(len(sizes), f"{self._key}/shards")
        first = np.cumsum(sizes) - sizes
        return np.concatenate([[0], np.cumsum(sizes[permuted])]), first[permuted]

    def window(self, number: int) -> NDArray[np.int64]:
        """The rows of window `number` in order: [at most window_rows] int64 global row indices."""
        start = number * self.window_rows
        position = start + _shuffled(min(self.window_rows, len(self) - start), f"{self._key}/window/{number}")
        begins, first = self._shards
        shard = np.searchsorted(begins, position, side="right") - 1
        return first[shard] + position - begins[shard]

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows at positions start .. stop of the epoch; positions past its end are left out."""
        stop = min(stop, len(self))
        if start >= stop:
            return np.zeros(0, np.int64)
        first, last = start // self.window_rows, (stop - 1) // self.window_rows
        windows = np.concatenate([self.window(number) for number in range(first, last + 1)])
        return windows[start - first * self.window_rows : stop - first * self.window_rows]


def _row_slice(block: TokenBlock, row: int) -> TokenBlock:
    """One row of a block: every array a view."""
    start, stop = int(block.row_offsets[row]), int(block.row_offsets[row + 1])
    first, last = int(block.soft.offsets[start]), int(block.soft.offsets[stop])
    soft = block.soft
    return TokenBlock(
        row=block.row[row : row + 1],
        row_offsets=block.row_offsets[row : row + 2],
        input_ids=block.input_ids[start:stop],
        token_type_ids=None if block.token_type_ids is None else block.token_type_ids[start:stop],
        soft=SoftIds(
            offsets=soft.offsets[start : stop + 1],
            ids=soft.ids[first:last],
            logprobs=soft.logprobs[first:last],
            log_tail=soft.log_tail[start:stop],
            original_logprob=soft.original_logprob[start:stop],
            log_partition=soft.log_partition[start:stop],
        ),
        label=None if block.label is None else block.label[row : row + 1],
    )


def _offsets(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of compressed sparse rows laid end to end, from those of the parts, wherever each part starts."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part) for part in parts]))])


def concatenate(blocks: list[TokenBlock]) -> TokenBlock:
    """The rows of the blocks, one after the other, as one block with offsets from 0. Needs at least one block."""
    soft = [block.soft for block in blocks]
    types = [block.token_type_ids for block in blocks if block.token_type_ids is not None]
    labels = [block.label for block in blocks if block.label is not None]
    return TokenBlock(
        row=np.concatenate([block.row for block in blocks]),
        row_offsets=_offsets([block.row_offsets for block in blocks]),
        input_ids=np.concatenate([block.input_ids for block in blocks]),
        token_type_ids=np.concatenate(types) if types else None,
        soft=SoftIds(
            offsets=_offsets([s.offsets for s in soft]),
            ids=np.concatenate([s.ids for s in soft]),
            logprobs=np.concatenate([s.logprobs for s in soft]),
            log_tail=np.concatenate([s.log_tail for s in soft]),
            original_logprob=np.concatenate([s.original_logprob for s in soft]),
            log_partition=np.concatenate([s.log_partition for s in soft]),
        ),
        label=np.concatenate(labels) if labels else None,
    )


class SmoothedDataset:
    """One split of a smoothed dataset: random access to rows through a memory map.

    folder: of the dataset, or its URI in an object store; shards are then fetched into the cache, and checked there. split: its name.
    verify: compare each shard's sha256 with the manifest when it is first read from, be it for its rows, labels or lengths.
    Raises DatasetError if the folder is no finished dataset, has no such split, or a shard is missing, cut short or altered.
    """

    def __init__(self, folder: Path | str, split: str, *, verify: bool = True) -> None:
        self.folder = open_folder(folder)
        self.name = split
        self.verify = verify
        self.manifest: Manifest = read_manifest(self.folder)
        self.shards = self.manifest.split(split)
        self._check_sizes()
        self._ends = np.cumsum([shard.samples for shard in self.shards])
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._checked: set[int] = set()
        self._blocks: OrderedDict[tuple[int, int], TokenBlock] = OrderedDict()
        self._cached_tokens = 0

    def __len__(self) -> int:
        """Rows of the split."""
        return int(self._ends[-1])

    def order(self, *, seed: int, epoch: int, rows: int | None = None) -> SampleOrder:
        """The order of an epoch; rows: only the split's first so many."""
        limit = len(self) if rows is None else min(rows, len(self))
        used = [min(shard.samples, limit - begin) for shard, begin in zip(self.shards, self._begins, strict=True)]
        shard_rows = tuple(count for count in used if count > 0)
        return SampleOrder(shard_rows=shard_rows, dataset=self.manifest.dataset, seed=seed, epoch=epoch)

    def batch(self, indices: NDArray[np.int64]) -> TokenBlock:
        """The rows with these global indices (0 .. len), in this order, as one block. IndexError if one is out of range."""
        indices = np.asarray(indices, np.int64)
        if not len(indices):
            raise ValueError("a batch needs at least one row")
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(f"row {indices.min()} .. {indices.max()} is outside a split of {len(self)} rows")
        shards = np.searchsorted(self._ends, indices, side="right")
        rows = []
        for shard, row in zip(shards.tolist(), (indices - self._begins[shards]).tolist(), strict=True):
            block = self._block(shard, row // ROWS_PER_RECORD_BATCH)
            rows.append(_row_slice(block, row % ROWS_PER_RECORD_BATCH))
        return concatenate(rows)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, specials included: [R]. Reads offsets only."""
        offsets = (b.column("input_ids").offsets.to_numpy(zero_copy_only=True) for b in self._record_batches())
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(o) for o in offsets)]).astype(np.int64)

    @cached_property
    def labels(self) -> NDArray[Any] | None:
        """Label of each row: [R] int64 (class, -1 unlabelled) or float64 (value, NaN unlabelled); None without a label column."""
        if "label" not in self._reader(0).schema.names:
            return None
        columns = [batch.column("label").to_numpy(zero_copy_only=False) for batch in self._record_batches()]
        return np.concatenate(columns) if columns else np.zeros(0, np.int64)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures other than 1 whose log-partition is stored, in the order of its columns."""
        return self._reader(0).meta.temperatures

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        begins: NDArray[np.int64] = self._ends - np.array([shard.samples for shard in self.shards])
        return begins

    def _record_batches(self) -> Iterator[Any]:
        for shard in range(len(self.shards)):
            reader = self._reader(shard)
            for number in range(len(reader)):
                yield reader.record_batch(number)

    def _check_sizes(self) -> None:
        listed: dict[str, int] = {}  # at once: in a store, asking for each would take as many requests
        for room in {shard.path.rpartition("/")[0] for shard in self.shards}:
            listed |= self.folder.files(room)
        for shard in self.shards:
            size = listed.get(shard.path)
            if size is None:
                raise DatasetError(f"shard {shard.path} is missing in {self.folder}; {AGAIN}")
            if size != shard.bytes:
                raise DatasetError(f"shard {shard.path} has {size:,} bytes, the manifest says {shard.bytes:,}; {AGAIN}")

    @property
    def is_local(self) -> bool:
        """Whether shards are read where they lie, and not from copies of them."""
        return isinstance(self.folder, LocalFolder)

    def _reader(self, index: int) -> ShardReader:
        """A shard, opened; the least recently used are closed past OPEN_SHARDS. Checked against the manifest the first time."""
        if index in self._readers:
            self._readers.move_to_end(index)
            return self._readers[index]
        shard = self.shards[index]
        path = self.folder.local(shard.path, size=shard.bytes, sha256=shard.sha256)
        first_time = index not in self._checked
        if first_time and self.verify and self.is_local and file_sha256(path) != shard.sha256:
            raise DatasetError(f"shard {shard.path} was altered: its sha256 is not the manifest's; {AGAIN}")
        reader = ShardReader(path)
        if not self.is_local:
            cache.hold(reader.descriptor)
        if first_time and reader.rows != shard.samples:
            raise DatasetError(f"shard {shard.path} has {reader.rows} rows, the manifest says {shard.samples}; {AGAIN}")
        if first_time and any(reader.record_batch(i).num_rows != ROWS_PER_RECORD_BATCH for i in range(len(reader) - 1)):
            raise DatasetError(f"shard {shard.path} is not laid out as the format says; {AGAIN}")
        self._checked.add(index)
        self._readers[index] = reader
        if len(self._readers) > OPEN_SHARDS:
            self._readers.popitem(last=False)
        return reader

    def _block(self, shard: int, number: int) -> TokenBlock:
        """Record batch `number` of a shard, decoded; the least recently used are forgotten past CACHED_TOKENS."""
        key = (shard, number)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = decode(self._reader(shard).record_batch(number))
            self._cached_tokens += len(block.input_ids)
            while self._cached_tokens > CACHED_TOKENS and len(self._blocks) > 1:
                self._cached_tokens -= len(self._blocks.popitem(last=False)[1].input_ids)
        else:
            self._blocks.move_to_end(key)
        return block
