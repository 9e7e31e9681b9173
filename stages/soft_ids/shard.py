"""Shards: the schema of their Arrow IPC files, which are written in one piece and read through a memory map."""

from collections.abc import Iterator
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from textsmooth.schemas.codecs import parse_codec
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError, first_line
from textsmooth.schemas.manifest import AGAIN, Manifest
from textsmooth.schemas.printable import printable
from textsmooth.schemas.shard import ANSWERS, PLACE, ROWS_PER_RECORD_BATCH, ShardMeta
from textsmooth.schemas.soft_ids import id_dtype
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, find_codec
from textsmooth.stages.soft_ids.ipc_sizes import uncompressed_bytes

MOST_EXPANSION, SMALL_BYTES = 100, 64 << 20  # compressed buffers may grow so many times, and by this much


def shard_schema(
    meta: ShardMeta,
    *,
    token_types: bool,
    label_kind: str | None = None,
    windows: bool = False,
    logits: int | None = None,
    keep: tuple[pa.Field, ...] = (),
) -> pa.Schema:
    """The Arrow schema of a shard.

    token_types: the tokenizer makes them. label_kind: `class` (int64), `value` (float64), `span` (answers) or None. windows: long rows
    are cut into several. logits: how many a task teacher gives per row; per token for `span`. keep: columns carried through.
    """
    columns = [pa.field("row", pa.int64(), nullable=False)]
    if windows:
        columns.append(pa.field("window", pa.int32(), nullable=False))
    columns.append(pa.field("input_ids", pa.list_(pa.from_numpy_dtype(id_dtype(meta.vocab_size)))))
    if token_types:
        columns.append(pa.field("token_type_ids", pa.list_(pa.uint8())))
    columns += find_codec(meta.codec).fields(meta)
    if label_kind == "span":
        columns += [
            pa.field("example_id", pa.string()),
            pa.field("offsets", pa.list_(PLACE)),
            pa.field("context", pa.string()),
            pa.field("context_start", pa.int32()),
            pa.field("answers", ANSWERS),
            pa.field("start_positions", pa.int32()),
            pa.field("end_positions", pa.int32()),
        ]
    elif label_kind is not None:
        columns.append(pa.field("label", pa.int64() if label_kind == "class" else pa.float64()))
    if logits is not None:
        single = pa.list_(pa.float32(), logits)
        columns.append(pa.field("teacher_logits", pa.list_(single) if label_kind == "span" else single))
    return pa.schema([*columns, *keep], metadata=meta.to_arrow())


def shard_bytes(batch: pa.RecordBatch) -> pa.Buffer:
    """The bytes of a shard file: the rows of a batch in record batches of ROWS_PER_RECORD_BATCH rows. Equal rows, equal bytes."""
    sink = pa.BufferOutputStream()
    compressed = parse_codec(ShardMeta.of(batch.schema, "the schema").codec)[0].compressed
    options = pa.ipc.IpcWriteOptions(compression="zstd" if compressed else None)
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        for start in range(0, batch.num_rows, ROWS_PER_RECORD_BATCH):
            writer.write_batch(batch.slice(start, ROWS_PER_RECORD_BATCH))
    return sink.getvalue()


def open_ipc(source: pa.NativeFile | pa.Buffer) -> pa.ipc.RecordBatchFileReader:
    """Open an Arrow IPC file. ArrowInvalid if its compressed buffers would take far more memory than a shard's do."""
    data = memoryview(source if isinstance(source, pa.Buffer) else source.read_buffer())
    file = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=False))
    try:
        size = uncompressed_bytes(data)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    if size > MOST_EXPANSION * len(data) + SMALL_BYTES:
        raise pa.ArrowInvalid(f"{len(data):,} bytes would expand to {size:,}")
    return file


def promised_schema(manifest: Manifest, split: str, unit: str, keep: tuple[pa.Field, ...]) -> pa.Schema:
    """The schema of a shard, by the manifest. Raises KeyError, TypeError or ValueError if the manifest is incomplete."""
    corpus, config = manifest.corpus, GenerationConfig.from_json(manifest.config)
    return shard_schema(
        ShardMeta.promised(config, manifest.teacher, label_kind=corpus["label_kind"], split=split, unit=unit),
        token_types=manifest.token_types,
        label_kind=corpus["label_kind"],
        windows=config.long == "window",
        logits=manifest.task_teacher["width"] if manifest.task_teacher else None,
        keep=keep,
    )


def schema_difference(schema: pa.Schema, promised: pa.Schema) -> str | None:
    """The first column that is not the promised one, as `has column …`; None if all are. ValueError for a name that is not UTF-8."""
    columns, due = ([f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in s] for s in (schema, promised))
    pairs = zip_longest(columns, due, fillvalue="none")
    return next(
        (printable(f"has column {column} where the manifest promises {wanted}") for column, wanted in pairs if column != wanted), None
    )


class ShardReader:
    """One shard, memory-mapped. Cheap to open; record batches are views of the file.

    Raises DatasetError, naming the file, if it is missing, cut short, or not a shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._map = pa.memory_map(str(path))
            self._file = open_ipc(self._map)
        except FileNotFoundError:
            raise DatasetError(f"shard {path} is missing; {AGAIN}") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(f"shard {path} is damaged ({first_line(error)}); {AGAIN}") from None
        self.schema: pa.Schema = self._file.schema
        self.meta = ShardMeta.of(self.schema, str(path))

    def __len__(self) -> int:
        """Number of record batches."""
        return int(self._file.num_record_batches)

    @property
    def descriptor(self) -> int:
        """The file descriptor of the map: open as long as the reader is there."""
        return int(self._map.fileno())

    @cached_property
    def rows(self) -> int:
        return sum(self.record_batch(i).num_rows for i in range(len(self)))

    def record_batch(self, index: int) -> pa.RecordBatch:
        """Record batch number `index`; all but the last have ROWS_PER_RECORD_BATCH rows."""
        try:
            return self._file.get_batch(index)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"shard {self.path} is damaged in record batch {index} ({first_line(error)})") from None

    def blocks(self) -> Iterator[TokenBlock]:
        """The shard's rows in order, one decoded record batch at a time."""
        for index in range(len(self)):
            yield decode(self.record_batch(index))
