"""A split of a smoothed dataset: how many rows, how long, what they hold. In which order an epoch visits them: order.py, loader.py.

Legend: R rows, N tokens, E entries, S extra temperatures.
"""

import mmap
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.codecs import parse_codec
from textsmooth.schemas.errors import DatasetError, first_line
from textsmooth.schemas.manifest import Manifest, ShardEntry
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH, ShardMeta, columns_of
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.checks.findings import Findings
from textsmooth.stages.checks.rows import RowRules, check_numbers, check_rows, decode_checked, first_places, lists_are_valid
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.dataset.order import WINDOW_ROWS, SampleOrder
from textsmooth.stages.dataset.prefetch import Prefetch
from textsmooth.stages.dataset.row_gather import gather
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, values
from textsmooth.stages.soft_ids.shard import ShardReader, promised_schema, schema_difference
from textsmooth.stages.storage import cache
from textsmooth.stages.storage.local import LocalFolder

if TYPE_CHECKING:
    from textsmooth.stages.dataset.batch_stream import BatchStream, Collate


FETCHED_AT_ONCE = 4  # shards of a dataset elsewhere; those that lie here are hashed one after the other
SAMPLE_ROWS = 512  # that the error of an interpolated temperature is measured on
OPEN_SHARDS = 256  # at once: each holds a file descriptor
OPEN_BLOCKS = 4096  # record batches whose columns are kept at hand: views of the file, a few KB each
OPEN_BYTES = 1 << 30  # of those that are no views, because their codec is compressed
_PLACES = 1 << 32  # more than a shard has record batches


class SmoothedDataset:
    """One split of a smoothed dataset: random access to rows through a memory map, and their order in an epoch.

    folder: of the dataset, or its URI in an object store or on the Hub (hf://datasets/owner/name[@revision][/folder]); shards are then
    fetched into a cache, and checked there. split: its name.
    verify: compare each shard's sha256 with the manifest when it is first read from, be it for its rows, labels or lengths.
    A map-style dataset for PyTorch, too: len(), dataset[i], and it can be sent to loader workers.
    Raises DatasetError if the folder is no finished dataset, or a shard is missing, cut short or altered; UsageError for another split.
    """

    def __init__(self, folder: Path | str, split: str, *, verify: bool = True) -> None:
        self.folder = open_folder(folder, reading=True)
        self.name = split
        self.verify = verify
        self.manifest: Manifest = read_manifest(self.folder)
        self.shards = self.manifest.split(split)
        self._check_sizes()
        self._ends = np.cumsum([shard.samples for shard in self.shards])
        self._open()

    def _open(self, checked: bytes | None = None) -> None:
        """What is not sent along to another process."""
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._seen: set[int] = set()  # shards that were opened
        # shards whose sha256 was compared: shared with processes that are forked, so that not every loader worker does it again
        self._checked = mmap.mmap(-1, len(self.shards))
        if checked is not None:
            self._checked[:] = checked
        self._blocks: OrderedDict[int, TokenBlock] = OrderedDict()
        self._held = 0  # bytes of those blocks that are copies
        self._prefetches: list[Prefetch] = []
        self._lengths: NDArray[np.int64] | None = None  # [R] of the rows of shards whose lengths are known
        self._known = np.zeros(len(self.shards), np.bool_)

    def __getstate__(self) -> dict[str, Any]:
        left = ("_readers", "_seen", "_blocks", "_held", "_prefetches", "_lengths", "_known")
        return {name: value for name, value in self.__dict__.items() if name not in left} | {"_checked": self._checked[:]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(state["_checked"])

    def __len__(self) -> int:
        """Rows of the split."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> TokenBlock:
        """One row as a block. IndexError outside 0 .. len."""
        return gather(*self._found(np.array([index], np.int64)))

    def __getitems__(self, indices: Sequence[int]) -> list[TokenBlock]:
        """Rows as blocks of one: what PyTorch's loaders ask for, and give to a collator."""
        blocks, rows = self._found(np.asarray(indices, np.int64))
        return [gather([block], [row]) for block, row in zip(blocks, rows, strict=True)]

    def batch(self, indices: NDArray[np.int64]) -> TokenBlock:
        """The rows with these global indices (0 .. len), in this order, as one block. IndexError if one is out of range."""
        if not len(indices):
            raise ValueError("a batch needs at least one row")
        return gather(*self._found(np.asarray(indices, np.int64)))

    def order(self, *, seed: int, epoch: int, rows: NDArray[np.bool_] | None = None, shuffle: bool = True) -> SampleOrder:
        """The order of an epoch. rows: which are used, [R] bool: the order numbers these from 0; None: all."""
        used = self._ends - self._begins
        if rows is not None:
            before = np.concatenate([[0], np.cumsum(rows)])
            used = before[self._ends] - before[self._begins]
        shard_rows = tuple(count for count in used.tolist() if count > 0)
        return SampleOrder(
            shard_rows=shard_rows, dataset=self.manifest.dataset, seed=seed, epoch=epoch, window_rows=WINDOW_ROWS, shuffle=shuffle
        )

    def stream(
        self,
        collate: "Collate",
        *,
        batch_size: int | None = 32,
        batch_tokens: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        rows: NDArray[np.bool_] | None = None,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        pad: bool = False,
    ) -> "BatchStream":
        """The batches of an epoch, collated, for one rank; dataset.batch_stream.BatchStream says what each argument means."""
        from textsmooth.stages.dataset.batch_stream import Batching, BatchStream, Share

        batching = Batching.of(batch_size=batch_size, batch_tokens=batch_tokens, shuffle=shuffle, rows=rows)
        share = Share(rank=rank, world_size=world_size, parts=parts, pad=pad)
        return BatchStream(self, collate, batching=batching, share=share, seed=seed, epoch=epoch, rows=rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, specials included: [R]. Reads offsets only, but of all shards."""
        self.keep_lengths(range(len(self.shards)))
        assert self._lengths is not None
        return self._lengths

    def keep_lengths(self, shards: Iterable[int]) -> None:
        """Read the lengths of the rows of shards (by number) that are not known yet; they stay known, at 8 bytes a row."""
        if self._lengths is None:
            self._lengths = np.zeros(len(self), np.int64)
        for shard in self._in_turn([shard for shard in shards if not self._known[shard]]):
            reader = self._reader(shard)
            offsets = (values(reader.record_batch(number).column("input_ids").offsets) for number in range(len(reader)))
            self._lengths[self._begins[shard] : self._ends[shard]] = np.concatenate([np.zeros(0, np.int64), *map(np.diff, offsets)])
            self._known[shard] = True

    def lengths_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the rows with these global indices: [R] -> [R]. Touches only the shards that these rows are in."""
        shards, rows = self._places(indices)
        if self._lengths is not None and self._known[shards].all():
            return self._lengths[indices]
        places, which = np.unique(shards * _PLACES + rows // ROWS_PER_RECORD_BATCH, return_inverse=True)
        found = [np.diff(self._block(place).row_offsets) for place in places.tolist()]
        first = np.cumsum([0, *map(len, found)])[:-1]
        lengths: NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *found])[first[which] + rows % ROWS_PER_RECORD_BATCH]
        return lengths.astype(np.int64)

    @cached_property
    def labels(self) -> NDArray[Any] | None:
        """Label of each row: [R] int64 (class, -1 unlabelled) or float64 (value, NaN unlabelled); None without a label column."""
        if "label" not in self._reader(0).schema.names:
            return None
        columns = [batch.column("label").to_numpy(zero_copy_only=False) for batch in self.record_batches()]
        return np.concatenate(columns) if columns else np.zeros(0, np.int64)

    @cached_property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures other than 1 whose log-partition is stored, in the order of its columns."""
        return self._reader(0).meta.temperatures

    @property
    def vocab_size(self) -> int:
        """Entries of the teacher's vocabulary."""
        return int(self.manifest.teacher["vocab_size"])

    def sample_soft_ids(self) -> SoftIds | None:
        """The soft ids of the first SAMPLE_ROWS rows; None if the split has no rows."""
        return self.batch(np.arange(min(SAMPLE_ROWS, len(self)))).soft if len(self) else None

    @cached_property
    def _rules(self) -> RowRules:
        return RowRules.of(self.manifest)

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        begins: NDArray[np.int64] = self._ends - np.array([shard.samples for shard in self.shards])
        return begins

    def shards_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the shards that rows lie in: [R] -> [R]."""
        return np.searchsorted(self._ends, indices, side="right")

    def _places(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard, and number in it, of rows by global indices. IndexError if one is out of range."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"row {indices.min()} .. {indices.max()} is outside a split of {len(self)} rows")
        shards = self.shards_of(indices)
        return shards, indices - self._begins[shards]

    def _found(self, indices: NDArray[np.int64]) -> tuple[list[TokenBlock], list[int]]:
        """The block of each row, and its number there."""
        shards, rows = self._places(indices)
        places = (shards * _PLACES + rows // ROWS_PER_RECORD_BATCH).tolist()
        return [self._block(place) for place in places], (rows % ROWS_PER_RECORD_BATCH).tolist()

    def record_batches(self) -> Iterator[Any]:
        """The rows in order, as Arrow record batches with all their columns: views of the files, one at a time."""
        for shard in self._in_turn(range(len(self.shards))):
            for number in range(len(self._reader(shard))):
                yield self._record_batch(shard, number)

    def _in_turn(self, shards: Sequence[int]) -> Iterator[int]:
        """Shards one after the other; meanwhile those that follow are fetched and checked."""
        with self.touching() as prefetch:
            for place, shard in enumerate(shards):
                prefetch.begin(self.cold(np.array(shards[place : place + FETCHED_AT_ONCE])))
                yield shard

    def _check_sizes(self) -> None:
        listed: dict[str, int] = {}  # at once: in a store, asking for each would take as many requests
        for room in {shard.path.rpartition("/")[0] for shard in self.shards}:
            listed |= self.folder.files(room)
        for shard in self.shards:
            size = listed.get(shard.path)
            if size is None:
                raise self._damaged(shard, "is missing")
            if size != shard.bytes:
                raise self._damaged(shard, f"has {size:,} bytes, the manifest says {shard.bytes:,}")

    def _damaged(self, shard: ShardEntry, what: str) -> DatasetError:
        return self._mendable(f"{shard.path} in {self.folder} {what}")

    def _mendable(self, said: str) -> DatasetError:
        """What is wrong with a shard, and how to come by just this one again."""
        if self.folder.read_only:
            return DatasetError(f"shard {said}; tell who has published it")
        if self.manifest.sources:
            mend = f"verify and repair the datasets it was merged of, then textsmooth merge SOURCE SOURCE… --out {self.folder}"
            return DatasetError(f"shard {said}; fetch that file again, or {mend}")
        again = f"textsmooth verify {self.folder} --repair"
        return DatasetError(f"shard {said}; fetch that file again, or run {again}: it makes just this file again, from corpus and teacher")

    @property
    def is_local(self) -> bool:
        """Whether shards are read where they lie, and not from copies of them."""
        return isinstance(self.folder, LocalFolder)

    def touch(self, index: int) -> Path:
        """The file of a shard on this machine, fetched if need be, and compared with the manifest the first time. Any thread may."""
        shard = self.shards[index]
        try:
            path = self.folder.local(shard.path, size=shard.bytes, sha256=shard.sha256)
        except DatasetError as error:
            if self.folder.read_only:
                raise
            raise self._mendable(str(error).partition(";")[0]) from None
        if self.verify and self.is_local and not self._checked[index]:
            if file_sha256(path) != shard.sha256:
                raise self._damaged(shard, "was altered, its sha256 is not the manifest's")
            self._checked[index] = 1
        return path

    def cold(self, shards: NDArray[np.int64]) -> list[int]:
        """Those of the shards that take time to touch: all that lie elsewhere, or were not compared with the manifest yet."""
        return [shard for shard in shards.tolist() if not self.is_local or (self.verify and not self._checked[shard])]

    @contextmanager
    def touching(self) -> Iterator[Prefetch]:
        """While this block runs, shards are taken from what touches them in the background, which it is given."""
        prefetch = Prefetch(self.touch, 1 if self.is_local else FETCHED_AT_ONCE)
        self._prefetches.append(prefetch)
        try:
            yield prefetch
        finally:
            self._prefetches.remove(prefetch)
            prefetch.close()

    def _reader(self, index: int) -> ShardReader:
        """A shard, opened; the least recently used are closed past OPEN_SHARDS."""
        if index in self._readers:
            self._readers.move_to_end(index)
            return self._readers[index]
        for prefetch in self._prefetches:
            prefetch.wait(index)
        shard = self.shards[index]
        reader = ShardReader(self.touch(index))
        if not self.is_local:
            cache.hold(reader.descriptor)
        if index not in self._seen:
            if reader.rows != shard.samples:
                raise self._damaged(shard, f"has {reader.rows} rows, the manifest says {shard.samples}")
            if any(reader.record_batch(i).num_rows != ROWS_PER_RECORD_BATCH for i in range(len(reader) - 1)):
                raise self._damaged(shard, "is not laid out as the format says")
            self._check_schema(reader, shard)
            for number in range(len(reader)):
                self._check(reader.record_batch(number), shard, number * ROWS_PER_RECORD_BATCH)
            self._seen.add(index)
        self._readers[index] = reader
        if len(self._readers) > OPEN_SHARDS:
            self._readers.popitem(last=False)
        return reader

    def stored(self, index: int) -> tuple[ShardMeta, list[pa.RecordBatch], pa.Schema]:
        """Metadata, record batches and schema of a shard, by its place in the split, as they are in its file."""
        reader = self._reader(index)
        return reader.meta, [reader.record_batch(number) for number in range(len(reader))], reader.schema

    def _check_schema(self, reader: ShardReader, shard: ShardEntry) -> None:
        """DatasetError unless the columns are those that the manifest promises; of kept columns only the names are compared."""
        keep = tuple(field for field in reader.schema if field.name in self.manifest.corpus["keep_columns"])
        promised = promised_schema(self.manifest, shard.split, reader.meta.unit, keep)
        difference = schema_difference(reader.schema, promised)
        meta = ShardMeta.of(promised, shard.path)
        if difference is None and (reader.meta.codec, reader.meta.temperatures) != (meta.codec, meta.temperatures):
            difference = "has another codec or other temperatures in its metadata than the manifest"
        if difference is not None:
            raise self._damaged(shard, difference)

    def _check(self, batch: pa.RecordBatch, shard: ShardEntry, first: int) -> None:
        """DatasetError for values that the format does not have: a stranger's digests may fit all the same. first: its first row."""
        findings, codec = Findings(path=f"{shard.path} in {self.folder}"), self.manifest.config["codec"]
        if lists_are_valid(batch, findings, first, columns_of(codec), shard.row_offset):
            places = first_places(batch, findings, shard.row_offset)
            try:
                block = decode_checked(batch, places, codec)
            except pa.ArrowInvalid as error:
                raise self._damaged(shard, f"is damaged inside ({first_line(error)})") from None
            if block is not None:
                check_rows(batch, block, places, self._rules)
                check_numbers(block.soft, places, self._rules)
        if findings.findings:
            raise self._mendable(str(findings.findings[0]))

    def _record_batch(self, shard: int, number: int) -> pa.RecordBatch:
        """Of a shard, its rows numbered as those of the split: of a merged dataset each source counts its own."""
        batch, offset = self._reader(shard).record_batch(number), self.shards[shard].row_offset
        if not offset:
            return batch
        place = batch.schema.get_field_index("row")
        row = values(batch.column(place)) + offset
        return batch.set_column(place, batch.schema.field(place), pa.array(row))

    def _block(self, place: int) -> TokenBlock:
        """A record batch of a shard, decoded; the least recently used are forgotten past OPEN_BLOCKS or OPEN_BYTES."""
        block = self._blocks.get(place)
        if block is None:
            shard, number = divmod(place, _PLACES)
            block = self._blocks[place] = decode(self._record_batch(shard, number), np.int32)
            self._held += self._copied(block)
            while len(self._blocks) > 1 and (len(self._blocks) > OPEN_BLOCKS or self._held > OPEN_BYTES):
                self._held -= self._copied(self._blocks.popitem(last=False)[1])
        else:
            self._blocks.move_to_end(place)
        return block

    def _copied(self, block: TokenBlock) -> int:
        """Bytes of a decoded block that are no view of the file."""
        compressed = parse_codec(self.manifest.config["codec"])[0].compressed
        return sum(array.nbytes for array in vars(block.soft).values()) if compressed else 0
