"""How soft ids are laid out in a shard. Codec `plain`: nested lists that any Arrow reader understands.

    row 0 ─ token 0 ─ ids[0..k)      soft_ids, soft_logprobs: list<list<…>>, offsets per row and per token
          └ token 1 ─ ids[k..2k)     log_tail, original_logprob, log_partition: list<…>, offsets per row
    row 1 ─ …

Nested lists are compressed sparse rows: decoding gives views of the mapped file, nothing is copied.
Legend: R rows, N tokens, E entries, S extra temperatures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.errors import UsageError
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
    window: NDArray[np.int32] | None = None  # [R] which window of its row, where long rows were cut
    spans: NDArray[np.int32] | None = None  # [R, 2] first and last token of the first answer; 0, 0 where there is none
    teacher_logits: NDArray[np.float32] | None = None  # [R, C]; [N, 2] for span tasks: start and end

    def __len__(self) -> int:
        return len(self.row)


def _offsets(offsets: NDArray[Any], what: str) -> pa.Array:
    if offsets[-1] > np.iinfo(np.int32).max:
        raise UsageError(f"{offsets[-1]:,} {what} in one shard, Arrow lists hold 2**31 - 1; lower --rows-per-shard")
    return pa.array(offsets.astype(np.int32, copy=False))


def per_row(row_offsets: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    """Values of N tokens as lists, one per row."""
    return pa.ListArray.from_arrays(_offsets(row_offsets, "tokens"), values)


def encode(block: TokenBlock, schema: pa.Schema, kept_columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Lay a block out in the columns of a shard schema. Log-probabilities are rounded to float16 here.

    kept_columns: arrays of R values for the columns that are carried through, and for those of span tasks and task teachers.
    """
    rows = _offsets(block.row_offsets, "tokens")
    tokens = _offsets(block.soft.offsets, "entries")
    soft = block.soft

    def per_token(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(rows, values)

    def per_entry(values: NDArray[Any]) -> pa.Array:
        return per_token(pa.ListArray.from_arrays(tokens, pa.array(values)))

    def halves(values: NDArray[Any]) -> NDArray[np.float16]:
        # beyond the range of float16 (p < e**-65504) the mass is nothing that float16 could tell from it
        limit = np.finfo(np.float16).max
        return np.where(np.isneginf(values), values, np.clip(values, -limit, limit)).astype(np.float16)

    columns: dict[str, pa.Array] = {"row": pa.array(block.row), **kept_columns}
    columns["input_ids"] = per_token(pa.array(block.input_ids))
    if block.token_type_ids is not None:
        columns["token_type_ids"] = per_token(pa.array(block.token_type_ids))
    columns["soft_ids"] = per_entry(soft.ids)
    columns["soft_logprobs"] = per_entry(halves(soft.logprobs))
    columns["log_tail"] = per_token(pa.array(halves(soft.log_tail)))
    columns["original_logprob"] = per_token(pa.array(halves(soft.original_logprob)))
    if soft.log_partition.shape[1]:
        flat = pa.array(np.ascontiguousarray(soft.log_partition, dtype=np.float32).reshape(-1))
        columns["log_partition"] = per_token(pa.FixedSizeListArray.from_arrays(flat, soft.log_partition.shape[1]))
    if block.label is not None:
        columns["label"] = pa.array(block.label)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _lists(array: pa.ListArray, dtype: type[np.signedinteger]) -> tuple[NDArray[Any], pa.Array]:
    """Offsets that start at 0 and the values they point into, of a possibly sliced list array."""
    offsets = array.offsets.to_numpy(zero_copy_only=True).astype(dtype, copy=False)
    return offsets - offsets[0] if offsets[0] else offsets, array.flatten()


def _numpy(array: pa.Array) -> NDArray[Any]:
    return array.to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]


def decode(batch: pa.RecordBatch, offset_dtype: type[np.signedinteger] = np.int64) -> TokenBlock:
    """The block that a record batch of a shard holds. Values are views of the batch's memory; offsets too, if they are to be int32."""
    names = set(batch.schema.names)
    row_offsets, ids = _lists(batch.column("input_ids"), offset_dtype)
    tokens = len(ids)
    offsets, soft_ids = _lists(batch.column("soft_ids").flatten(), offset_dtype)
    partition = np.zeros((tokens, 0), np.float32)
    if "log_partition" in names:
        nested = batch.column("log_partition").flatten()
        partition = _numpy(nested.flatten()).reshape(tokens, nested.type.list_size)
    return TokenBlock(
        row=_numpy(batch.column("row")),
        row_offsets=row_offsets,
        input_ids=_numpy(ids),
        token_type_ids=_numpy(batch.column("token_type_ids").flatten()) if "token_type_ids" in names else None,
        soft=SoftIds(
            offsets=offsets,
            ids=_numpy(soft_ids),
            logprobs=_numpy(batch.column("soft_logprobs").flatten().flatten()),
            log_tail=_numpy(batch.column("log_tail").flatten()),
            original_logprob=_numpy(batch.column("original_logprob").flatten()),
            log_partition=partition,
        ),
        label=_numpy(batch.column("label")) if "label" in names else None,
        window=_numpy(batch.column("window")) if "window" in names else None,
        spans=_spans(batch) if "start_positions" in names else None,
        teacher_logits=_logits(batch.column("teacher_logits")) if "teacher_logits" in names else None,
    )


def _spans(batch: pa.RecordBatch) -> NDArray[np.int32]:
    return np.stack([_numpy(batch.column(f"{end}_positions")) for end in ("start", "end")], axis=1)


def _logits(column: pa.Array) -> NDArray[np.float32]:
    """Rows of a fixed_size_list<float32>[C], or of a list of them, one after the other."""
    rows = column.flatten() if pa.types.is_list(column.type) else column
    return _numpy(rows.flatten()).reshape(len(rows), rows.type.list_size)
