"""Codec `plain`: soft ids as nested lists, which any Arrow reader understands.

    row 0 ─ token 0 ─ ids[0..k)      soft_ids, soft_logprobs: list<list<…>>, offsets per row and per token
          └ token 1 ─ ids[k..2k)     log_tail, original_logprob, log_partition: list<…>, offsets per row
    row 1 ─ …

Nested lists are compressed sparse rows: decoding gives views of the mapped file, nothing is copied.
Legend: R rows, N tokens, E entries, S extra temperatures.
"""

import sys
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from textsmooth.schemas.shard import ShardMeta
from textsmooth.schemas.soft_ids import SoftIds, id_dtype
from textsmooth.stages.soft_ids.codec import Codec, TokenBlock, list_offsets, per_row, unnest, values

_HALF = np.finfo(np.float16)
_MINUS_INFINITY = np.float16(-np.inf).view(np.uint16)


class PlainCodec(Codec):
    per_token = ("soft_ids", "soft_logprobs", "log_tail", "original_logprob", "log_partition")
    per_entry = ("soft_ids", "soft_logprobs")

    def fields(self, meta: ShardMeta) -> list[pa.Field]:
        half = pa.float16()
        fields = [
            pa.field("soft_ids", pa.list_(pa.list_(pa.from_numpy_dtype(id_dtype(meta.vocab_size))))),
            pa.field("soft_logprobs", pa.list_(pa.list_(half))),
            pa.field("log_tail", pa.list_(half)),
            pa.field("original_logprob", pa.list_(half)),
        ]
        if meta.temperatures:
            fields.append(pa.field("log_partition", pa.list_(pa.list_(pa.float32(), len(meta.temperatures)))))
        return fields

    def encode(self, block: TokenBlock) -> dict[str, pa.Array]:
        soft, row_offsets = block.soft, block.row_offsets
        entry_offsets = list_offsets(soft.offsets, "entries")

        def per_entry(array: NDArray[Any]) -> pa.Array:
            return per_row(row_offsets, pa.ListArray.from_arrays(entry_offsets, pa.array(array)))

        columns = {
            "soft_ids": per_entry(soft.ids),
            "soft_logprobs": per_entry(to_float16(soft.logprobs)),
            "log_tail": per_row(row_offsets, pa.array(to_float16(soft.log_tail))),
            "original_logprob": per_row(row_offsets, pa.array(to_float16(soft.original_logprob))),
        }
        temperatures = soft.log_partition.shape[1]
        if temperatures:
            flat = pa.array(np.ascontiguousarray(soft.log_partition, dtype=np.float32).reshape(-1))
            columns["log_partition"] = per_row(row_offsets, pa.FixedSizeListArray.from_arrays(flat, temperatures))
        return columns

    def decode(self, batch: pa.RecordBatch, row_offsets: NDArray[np.signedinteger]) -> SoftIds:
        offsets, ids = unnest(batch.column("soft_ids").flatten(), row_offsets.dtype)
        tokens = len(offsets) - 1
        partition = np.zeros((tokens, 0), np.float32)
        if "log_partition" in batch.schema.names:
            nested = batch.column("log_partition").flatten()
            partition = values(nested.flatten()).reshape(tokens, nested.type.list_size)
        return SoftIds(
            offsets=offsets,
            ids=values(ids),
            logprobs=values(batch.column("soft_logprobs").flatten().flatten()),
            log_tail=values(batch.column("log_tail").flatten()),
            original_logprob=values(batch.column("original_logprob").flatten()),
            log_partition=partition,
        )

    def entry_bytes(self, vocab_size: int) -> float:
        return id_dtype(vocab_size).itemsize + np.dtype(np.float16).itemsize

    def log_error(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half a step of float16: 2^-11 of the number, 2^-25 below the least normal one; 0 for infinities."""
        return np.where(size < _HALF.smallest_normal, _HALF.smallest_subnormal / 2, np.where(np.isfinite(size), size * 2.0**-11, 0.0))


CODEC = PlainCodec()


def to_float16(logprobs: NDArray[Any]) -> NDArray[np.float16]:
    """Rounded to float16; -inf stays, what is below its range (p < e**-65504) becomes its lowest number. torch, where loaded, is fast."""
    torch = sys.modules.get("torch")
    wide = np.ascontiguousarray(logprobs)
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = wide.astype(np.float16) if torch is None else torch.from_numpy(wide).half().numpy()
    infinite = half.view(np.uint16) == _MINUS_INFINITY
    if infinite.any():
        half[infinite & ~np.isneginf(wide)] = _HALF.min
    return half
