"""Parquet and Arrow files, read in batches of rows."""

import json
from abc import abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.errors import CorpusError, first_line
from textsmooth.schemas.tasks import TEXT_NAMES
from textsmooth.stages.corpus.column_types import NO_VALUE
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, FileFormat, LateColumns, SourceFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PAGE_BYTES = 1 << 20  # read at a time from a Parquet column, instead of a whole column chunk
BLOCK_BYTES = 4 << 20
IPC_FILE = b"ARROW1"  # the file format begins with it; the stream format has no mark
CONTINUATION = b"\xff\xff\xff\xff"  # before each message of a stream, and before its end; older writers omit it
END_OF_STREAM = b"\0\0\0\0"

Batches = Iterator[tuple["pa.RecordBatch", int]]  # with the number of their first row


@contextmanager
def _arrow_errors(file: SourceFile) -> Iterator[None]:
    """Turn errors of pyarrow into a CorpusError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file}: {getattr(error, 'strerror', None) or first_line(error)}") from None


@dataclass(frozen=True)
class _Tables(FileFormat):
    """Files with a schema, whose rows come in record batches."""

    @abstractmethod
    def schema(self, file: SourceFile) -> "pa.Schema":
        """The schema of a file."""

    @abstractmethod
    def batches(self, file: SourceFile, names: tuple[str, ...], row: int) -> Batches:
        """Batches of these columns, at the latest from the one that holds row number `row`."""

    def columns(self, file: SourceFile) -> dict[str, bool]:
        import pyarrow as pa

        schema = _schema(file, *file.stat())
        for name in schema.names:
            if schema.names.count(name) > 1:
                raise CorpusError(f"{file} has two columns {name!r}: rename one of them")
        types = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema}
        return {name: _is_string(kind) or (name in TEXT_NAMES and _is_binary(kind)) for name, kind in types.items()}

    def class_names(self, file: SourceFile) -> dict[str, tuple[str, ...]]:
        """Names of integer classes by column, from the feature types that `datasets` writes to the metadata."""
        import pyarrow as pa

        schema = _schema(file, *file.stat())
        numeric = {field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)}
        try:
            metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = metadata.get("info", {}).get("features", {}).items()
            labels = {k: v for k, v in features if isinstance(v, dict) and v.get("_type") == "ClassLabel" and k in numeric}
            names = {column: tuple(map(str, label["names"])) for column, label in labels.items()}
            for listed in names.values():
                " ".join(listed).encode()
                if len(set(listed)) < len(listed):
                    raise ValueError
            return names
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise CorpusError(f"the metadata `huggingface` of {file} is damaged: write the file again") from None

    def blocks(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: LateColumns) -> Generator[Block, None, None]:
        with _arrow_errors(file):
            for batch, first_row in self.batches(file, names, row):
                low = max(row - first_row, 0)
                if low < batch.num_rows:
                    part = batch.slice(low)
                    yield Block(offsets=None, columns=_values(file, part, names, first_row + low), count=part.num_rows)


@dataclass(frozen=True)
class Parquet(_Tables):
    """Parquet: reading starts at the row group that holds the first row."""

    def schema(self, file: SourceFile) -> "pa.Schema":
        with _open_parquet(file) as parquet:
            return parquet.schema_arrow

    def batches(self, file: SourceFile, names: tuple[str, ...], row: int) -> Batches:
        with _open_parquet(file) as parquet:
            _check_columns(file, parquet.schema_arrow, names)
            metadata = parquet.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            _check_rows(file, sum(group.num_rows for group in groups), metadata.num_rows, "the file")
            row_bytes = sum(group.total_byte_size for group in groups) / max(metadata.num_rows, 1)
            first_row = skipped = 0
            while skipped < len(groups) and first_row + groups[skipped].num_rows <= row:
                first_row += groups[skipped].num_rows
                skipped += 1
            for i in range(skipped, len(groups)):
                group_row = first_row
                for batch in parquet.iter_batches(_batch_rows(row_bytes), row_groups=[i], columns=list(names), use_threads=False):
                    _validate(file, batch, names, first_row)
                    yield batch, first_row
                    first_row += batch.num_rows
                _check_rows(file, first_row - group_row, groups[i].num_rows, f"row group {i}")


@dataclass(frozen=True)
class ArrowIpc(_Tables):
    """Arrow IPC, the file format or the stream format."""

    def schema(self, file: SourceFile) -> "pa.Schema":
        with _open_ipc(file) as (schema, _):
            return schema

    def batches(self, file: SourceFile, names: tuple[str, ...], row: int) -> Batches:
        _check_columns(file, self.schema(file), names)
        first_row = 0
        with _open_ipc(file, names) as (_, batches):
            for batch in batches:
                if not batch.num_rows:
                    continue
                _validate(file, batch, names, first_row)  # nothing touches its buffers before
                size = _batch_rows(batch.nbytes / batch.num_rows)
                for start in range(0, batch.num_rows, size):
                    yield batch.slice(start, size), first_row + start
                first_row += batch.num_rows


@lru_cache(maxsize=4096)  # of a remote file each look at the schema is a request
def _schema(file: SourceFile, *_stat: int) -> "pa.Schema":
    """The schema of a file. CorpusError if it cannot be read, or a column's name is not UTF-8."""
    with _arrow_errors(file):
        try:
            schema: pa.Schema = file.format.schema(file)  # type: ignore[attr-defined]
            schema.names  # noqa: B018
        except UnicodeDecodeError:
            raise CorpusError(f"{file} has a column whose name is not UTF-8: rename it") from None
        return schema


def _is_string(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: "pa.DataType") -> bool:
    """Whether values are bytes, which older writers also use for strings."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _batch_rows(row_bytes: float) -> int:
    """Rows of a batch: fewer if rows are long."""
    return max(1, min(SCAN_ROWS, int(BLOCK_BYTES / max(row_bytes, 1))))


@contextmanager
def _open_parquet(file: SourceFile) -> "Iterator[pq.ParquetFile]":
    import pyarrow.parquet as pq

    options = {"pre_buffer": False, "buffer_size": PAGE_BYTES, "page_checksum_verification": True}
    with file.open() as opened, pq.ParquetFile(opened, **options) as parquet:
        yield parquet


def _check_rows(file: SourceFile, rows: int, promised: int, part: str) -> None:
    if rows != promised:
        raise CorpusError(f"{file} is damaged: {part} holds {rows:,} rows, its footer says {promised:,}; write or download it again")


@contextmanager
def _open_ipc(file: SourceFile, names: tuple[str, ...] = ()) -> "Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]":
    """Schema and batches of an Arrow file in either format, with these columns only, if any are named."""
    import pyarrow as pa

    with file.open() as opened:
        is_file = opened.read(len(IPC_FILE)) == IPC_FILE
        opened.seek(0)
        with pa.PythonFile(opened, mode="r") if file.streamed else pa.memory_map(str(file.local())) as source:
            open_ipc = pa.ipc.open_file if is_file else pa.ipc.open_stream
            schema = open_ipc(source).schema
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
            source.seek(0)
            reader = open_ipc(source, options=options)
            if is_file:
                yield schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                yield schema, _whole_stream(file, reader, source)


def _whole_stream(file: SourceFile, reader: "pa.RecordBatchReader", source: "pa.NativeFile") -> "Iterator[pa.RecordBatch]":
    """The batches of a stream. CorpusError if its end marker is missing, or is not the end of the file."""
    yield from reader
    end = source.tell()
    source.seek(0)
    marker = CONTINUATION + END_OF_STREAM if source.read(len(CONTINUATION)) == CONTINUATION else END_OF_STREAM
    source.seek(max(end - len(marker), 0))
    if source.read(len(marker)) != marker:
        raise CorpusError(
            f"{file} is cut off, or its writer was never closed: the end of the stream is missing; write or download it again"
        )
    if source.read(1):
        raise CorpusError(f"{file} has more data after the end of its stream, at byte {end}: write each stream to a file of its own")


def _check_columns(file: SourceFile, schema: "pa.Schema", names: tuple[str, ...]) -> None:
    for name in names:
        if name not in schema.names:
            raise CorpusError(f"{file} has no column {name!r}; it has {', '.join(schema.names)}")
        if _contains_union(schema.field(name).type):
            raise CorpusError(f"column {name!r} of {file} is a {schema.field(name).type}, which is not supported: {NO_VALUE}")


def _contains_union(kind: "pa.DataType") -> bool:
    """Whether a type is a union or contains one: pyarrow crashes on the size of such a column."""
    import pyarrow as pa

    inner = [kind.value_type] if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) else []
    return pa.types.is_union(kind) or any(map(_contains_union, inner + [kind.field(i).type for i in range(kind.num_fields)]))


def _validate(file: SourceFile, batch: "pa.RecordBatch", names: tuple[str, ...], row: int) -> None:
    """CorpusError for text that is not UTF-8; ArrowInvalid for a batch whose buffers do not fit: it must not be used."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        for name in names:
            _check_utf8(file, batch.column(name), name, row)
        raise


def _values(file: SourceFile, batch: "pa.RecordBatch", names: tuple[str, ...], row: int) -> list[list[Any]]:
    """The values of columns. CorpusError for bytes that are not UTF-8, or for values that Python has no type for."""
    import pyarrow as pa

    try:
        columns = [batch.column(name) for name in names]
        return [(column.cast(pa.large_string()) if _is_binary(column.type) else column).to_pylist() for column in columns]
    except (UnicodeDecodeError, pa.ArrowInvalid):
        for name in names:
            _check_utf8(file, batch.column(name), name, row)
        raise
    except (OverflowError, ValueError, KeyError):
        for name in names:
            _check_values(file, batch.column(name), name, row)
        raise


def _check_values(file: SourceFile, column: "pa.Array", name: str, row: int) -> None:
    """CorpusError for the first value that Python has no type for: the year 10000, a struct with a field twice."""
    for i, value in enumerate(column):
        try:
            value.as_py()
        except (OverflowError, ValueError, KeyError) as error:
            location = f"row {row + i} of {file}: column {name!r}"
            raise CorpusError(f"{location} holds a {column.type} that cannot be read ({first_line(error)}): {NO_VALUE}") from None


def _check_utf8(file: SourceFile, column: "pa.Array", name: str, row: int) -> None:
    """CorpusError for the first text that is not UTF-8. ArrowInvalid if the column is not even valid as bytes."""
    import pyarrow as pa

    if _is_string(column.type) or _is_binary(column.type):
        views = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
        as_bytes = column.view(views.get(column.type, column.type))
        as_bytes.validate(full=True)
        for i, value in enumerate(as_bytes):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError as error:
                location = f"row {row + i} of {file}: column {name!r}"
                raise CorpusError(f"{location} is not UTF-8 ({error.reason} at byte {error.start}): write it again as UTF-8") from None
