"""Parquet and Arrow files, read in batches of rows."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.errors import CorpusError, first_line
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, SourceFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMATS = ("parquet", "arrow")
PAGE_BYTES = 1 << 20  # read of a Parquet column at a time: whole column chunks otherwise
BLOCK_BYTES = 4 << 20
IPC_FILE = b"ARROW1"  # how the file format begins; the stream format has no mark
CONTINUES = b"\xff\xff\xff\xff"  # before each message of a stream, and its end; older writers leave it out
NO_MESSAGE = b"\0\0\0\0"


@contextmanager
def _errors(file: SourceFile) -> Iterator[None]:
    """What pyarrow says, as a CorpusError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file}: {getattr(error, 'strerror', None) or first_line(error)}") from None


@contextmanager
def _parquet(file: SourceFile) -> "Iterator[pq.ParquetFile]":
    import pyarrow.parquet as pq

    with file.open() as opened, pq.ParquetFile(opened, pre_buffer=False, buffer_size=PAGE_BYTES) as parquet:
        yield parquet


@contextmanager
def _ipc(file: SourceFile, fields: tuple[str, ...] = ()) -> "Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]":
    """Schema and batches of an Arrow file of either kind, with these fields only, if any are named."""
    import pyarrow as pa

    with file.open() as opened:
        is_file = opened.read(len(IPC_FILE)) == IPC_FILE
        opened.seek(0)
        with pa.PythonFile(opened, mode="r") if file.streamed else pa.memory_map(str(file.path)) as source:
            open_it = pa.ipc.open_file if is_file else pa.ipc.open_stream
            schema = open_it(source).schema
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in fields])
            source.seek(0)
            reader = open_it(source, options=options)
            yield schema, (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else _whole(file, reader, source)


def _whole(file: SourceFile, reader: "pa.RecordBatchReader", source: "pa.NativeFile") -> "Iterator[pa.RecordBatch]":
    """The batches of a stream. CorpusError if its end is missing, or more stands behind it."""
    yield from reader
    end = source.tell()
    source.seek(0)
    mark = CONTINUES + NO_MESSAGE if source.read(len(CONTINUES)) == CONTINUES else NO_MESSAGE
    source.seek(max(end - len(mark), 0))
    if source.read(len(mark)) != mark:
        raise CorpusError(f"{file} is cut off, or its writer was never closed: the end of the stream is missing; write or fetch it again")
    if source.read(1):
        raise CorpusError(f"{file} has more after the end of its stream, at byte {end}: give each stream a file of its own")


def _schema(file: SourceFile) -> "pa.Schema":
    with _errors(file):
        if file.format == "parquet":
            with _parquet(file) as parquet:
                return parquet.schema_arrow
        with _ipc(file) as (schema, _):
            return schema


def columns(file: SourceFile) -> dict[str, bool]:
    """The columns of a file, and whether each holds text."""
    import pyarrow as pa

    schema = _schema(file)
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise CorpusError(f"{file} has two columns {name!r}: rename one of them")
    kinds = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema}
    return {n: pa.types.is_string(k) or pa.types.is_large_string(k) or pa.types.is_string_view(k) for n, k in kinds.items()}


def class_names(file: SourceFile) -> dict[str, tuple[str, ...]]:
    """Names of integer classes by column, from the feature types that `datasets` leaves in the metadata."""
    try:
        metadata = json.loads((_schema(file).metadata or {}).get(b"huggingface", b"{}"))
        features = metadata.get("info", {}).get("features", {}).items()
        return {k: tuple(map(str, v["names"])) for k, v in features if isinstance(v, dict) and v.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise CorpusError(f"the metadata `huggingface` of {file} is damaged: write the file again") from None


def blocks(file: SourceFile, names: tuple[str, ...], row: int) -> Generator[Block, None, None]:
    """The rows of a file from a row on."""
    with _errors(file):
        for batch, first in _parquet_batches(file, names, row) if file.format == "parquet" else _ipc_batches(file, names):
            low = max(row - first, 0)
            if low < batch.num_rows:
                part = batch.slice(low)
                yield Block(where=None, columns=_values(file, part, names, first + low), count=part.num_rows)


def _parquet_batches(file: SourceFile, names: tuple[str, ...], row: int) -> "Iterator[tuple[pa.RecordBatch, int]]":
    """Batches and the number of their first row, from the row group on that a row is in."""
    with _parquet(file) as parquet:
        _check(file, parquet.schema_arrow, names)
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first = skipped = 0
        while skipped < len(groups) and first + groups[skipped] <= row:
            first += groups[skipped]
            skipped += 1
        wanted = range(skipped, len(groups))
        size = _batch_rows(parquet)
        for batch in parquet.iter_batches(size, row_groups=wanted, columns=list(names), use_threads=False):
            yield batch, first
            first += batch.num_rows


def _batch_rows(parquet: "pq.ParquetFile") -> int:
    """Rows of a batch: fewer where rows are long."""
    meta = parquet.metadata
    size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) / max(meta.num_rows, 1)
    return max(1, min(SCAN_ROWS, int(BLOCK_BYTES / max(size, 1))))


def _ipc_batches(file: SourceFile, names: tuple[str, ...]) -> "Iterator[tuple[pa.RecordBatch, int]]":
    with _ipc(file) as (schema, _):
        _check(file, schema, names)
    first = 0
    with _ipc(file, names) as (_, batches):
        for batch in batches:
            size = max(1, min(SCAN_ROWS, int(BLOCK_BYTES * batch.num_rows / max(batch.nbytes, 1))))
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size), first + start
            first += batch.num_rows


def _check(file: SourceFile, schema: "pa.Schema", names: tuple[str, ...]) -> None:
    for name in names:
        if name not in schema.names:
            raise CorpusError(f"{file} has no column {name!r}; it has {', '.join(schema.names)}")


def _values(file: SourceFile, batch: "pa.RecordBatch", names: tuple[str, ...], row: int) -> list[list[Any]]:
    """The values of columns. CorpusError for text that is not UTF-8, or for a damaged batch."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
        return [batch.column(name).to_pylist() for name in names]
    except (UnicodeDecodeError, pa.ArrowInvalid):
        for name in names:
            _check_utf8(file, batch.column(name), name, row)
        raise


def _check_utf8(file: SourceFile, column: "pa.Array", name: str, row: int) -> None:
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        raw = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        for i, value in enumerate(raw):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError as error:
                where = f"row {row + i} of {file}: column {name!r}"
                raise CorpusError(f"{where} is not UTF-8 ({error.reason} at byte {error.start}): write it again as UTF-8") from None
