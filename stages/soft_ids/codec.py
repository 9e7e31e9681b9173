"""Rows of tokens to Arrow record batches and back. How the soft ids are laid out in columns is the codec's.

A shard names its codec in its metadata, so `encode` and `decode` never have to be given one. schemas/codecs.py lists the codecs;
plain_codec.py is the default.
Legend: R rows, N tokens, E entries, S extra temperatures, C logits.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.codecs import parse_codec
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.shard import ShardMeta
from textsmooth.schemas.soft_ids import SoftIds


@dataclass(frozen=True, kw_only=True)
class TokenBlock:
    """Consecutive rows with their tokens and soft ids, as numpy arrays (views where they come from a file)."""

    row: NDArray[np.int64]  # [R] position in the source split
    row_offsets: NDArray[np.int64]  # [R + 1]: row r has tokens row_offsets[r] .. row_offsets[r + 1]
    input_ids: NDArray[np.unsignedinteger]  # [N]
    token_type_ids: NDArray[np.uint8] | None  # [N]
    soft: SoftIds  # of the N tokens
    label: NDArray[Any] | None  # [R] int64 (class, -1 unlabelled) or float64 (value, NaN unlabelled)
    window: NDArray[np.int32] | None = None  # [R] which window of its source row, where long rows were cut into windows
    spans: NDArray[np.int32] | None = None  # [R, 2] first and last token of the first answer; 0, 0 where there is none
    teacher_logits: NDArray[np.float32] | None = None  # [R, C]; [N, 2] for span tasks: start and end

    def __len__(self) -> int:
        return len(self.row)


class Codec(ABC):
    """How soft ids are laid out in the columns of a shard.

    Decoded log-probabilities are float16, and a token's entries most probable first. Equal soft ids give equal arrays.
    """

    per_token: tuple[str, ...] = ()  # columns that are lists with one value for each token of the row
    per_entry: tuple[str, ...] = ()  # columns among these whose values are lists with one item for each entry

    @abstractmethod
    def fields(self, meta: ShardMeta) -> list[pa.Field]:
        """The columns of a shard, in the order of CodecSpec.columns."""

    @abstractmethod
    def encode(self, block: TokenBlock) -> dict[str, pa.Array]:
        """One array of R values for each of `fields`: of a whole shard. UsageError if a shard cannot hold that many entries."""

    @abstractmethod
    def decode(self, batch: pa.RecordBatch, row_offsets: NDArray[np.signedinteger]) -> SoftIds:
        """The soft ids of a record batch of a shard, or of several joined. row_offsets: [R + 1] from 0; `offsets` are of the same dtype.

        ArrowInvalid if its columns do not hold what `encode` writes, in bounded time and memory.
        """

    @abstractmethod
    def entry_bytes(self, vocab_size: int) -> float:
        """Bytes that one more entry takes in a shard, to estimate sizes."""

    @abstractmethod
    def log_error(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far a stored log-probability of this absolute value may be from the exact one, at most."""

    most_variation: float = 0.0  # bound on the mean total variation between what was encoded and what is decoded, over tokens with entries

    def with_bound(self, variation: float) -> "Codec":
        """The codec with that bound. Only of those whose CodecSpec is `lossy`."""
        raise NotImplementedError

    def variation(self, batch: pa.RecordBatch, soft: SoftIds) -> float:
        """Bounds of the total variation of the tokens of a record batch, summed. soft: as decoded."""
        return 0.0


@cache
def find_codec(name: str) -> Codec:
    """The codec of that name, `codec` or `codec:BOUND`. UsageError if there is none, or a library that it needs is not installed."""
    spec, bound = parse_codec(name)
    if any(importlib.util.find_spec(library) is None for library in spec.libraries):
        extra = name.partition(":")[0]
        raise UsageError(f"codec {name} needs {' and '.join(spec.libraries)}; install it with: pip install 'textsmooth[{extra}]'")
    codec: Codec = importlib.import_module(spec.module).CODEC
    return codec if bound is None else codec.with_bound(bound)


def encode(block: TokenBlock, schema: pa.Schema, kept_columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Lay the rows of a shard out in the columns of its schema. Log-probabilities are rounded to what its codec stores.

    kept_columns: arrays of R values for the columns that are carried through, and for those of span tasks and task teachers.
    """
    codec = find_codec(ShardMeta.of(schema, "the schema").codec)
    columns: dict[str, pa.Array] = {"row": pa.array(block.row), **kept_columns}
    columns["input_ids"] = per_row(block.row_offsets, pa.array(block.input_ids))
    if block.token_type_ids is not None:
        columns["token_type_ids"] = per_row(block.row_offsets, pa.array(block.token_type_ids))
    columns |= codec.encode(block)
    if block.label is not None:
        columns["label"] = pa.array(block.label)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def decode(batch: pa.RecordBatch, offset_dtype: type[np.signedinteger] = np.int64, codec: str | None = None) -> TokenBlock:
    """The block that a record batch of a shard holds. Values are views of the batch's memory where the codec stores them as they are.

    offset_dtype: of row_offsets and soft.offsets; int32 is what Arrow has. codec: in place of the one that the metadata names.
    """
    names = set(batch.schema.names)
    row_offsets, ids = unnest(batch.column("input_ids"), offset_dtype)
    return TokenBlock(
        row=values(batch.column("row")),
        row_offsets=row_offsets,
        input_ids=values(ids),
        token_type_ids=values(batch.column("token_type_ids").flatten()) if "token_type_ids" in names else None,
        soft=find_codec(codec or ShardMeta.of(batch.schema, "the record batch").codec).decode(batch, row_offsets),
        label=values(batch.column("label")) if "label" in names else None,
        window=values(batch.column("window")) if "window" in names else None,
        spans=_spans(batch) if "start_positions" in names else None,
        teacher_logits=_logits(batch.column("teacher_logits")) if "teacher_logits" in names else None,
    )


def _spans(batch: pa.RecordBatch) -> NDArray[np.int32]:
    return np.stack([values(batch.column(f"{end}_positions")) for end in ("start", "end")], axis=1)


def _logits(column: pa.Array) -> NDArray[np.float32]:
    """Rows of a fixed_size_list<float32>[C], or of a list of them, one after the other."""
    rows = column.flatten() if pa.types.is_list(column.type) else column
    return values(rows.flatten()).reshape(len(rows), rows.type.list_size)


def list_offsets(offsets: NDArray[Any], unit: str) -> pa.Array:
    """Offsets of an Arrow list array. UsageError if they do not fit 32 bits. unit: what they count, for its message."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise UsageError(f"{offsets[-1]:,} {unit} in one shard, Arrow lists hold 2**31 - 1; lower --rows-per-shard")
    return pa.array(offsets.astype(np.int32, copy=False))


def per_row(row_offsets: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    """Values of N tokens as lists, one per row."""
    return pa.ListArray.from_arrays(list_offsets(row_offsets, "tokens"), values)


def unnest(array: pa.ListArray, dtype: Any) -> tuple[NDArray[Any], pa.Array]:
    """Offsets of that dtype, starting at 0, and the values they point into, of a list array that may be a slice."""
    offsets = values(array.offsets).astype(dtype, copy=False)
    return offsets - offsets[0] if offsets[0] else offsets, array.flatten()


def values(array: pa.Array) -> NDArray[Any]:
    """The values of an array of numbers: a read-only view. ArrowInvalid for nulls. Array.to_numpy would import pandas: 0.4 s."""
    if array.null_count:
        raise pa.ArrowInvalid(f"{array.null_count} nulls in a column that has none")
    view = np.from_dlpack(array)
    view.flags.writeable = False
    return view
