"""Group rows of similar length into padded batches.

Legend: B rows of a batch, L padded length, N tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.stages.tokens.tokenize import TokenRows

TOO_LARGE_ADVICE = "lower --max-length, and --max-batch-tokens to leave it more memory"  # where a batch of one row does not fit


@dataclass(frozen=True, kw_only=True)
class PaddedRows:
    """The rows of one forward pass, padded to the longest of them."""

    rows: NDArray[np.int64]  # [B] numbers of the rows
    input_ids: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, L] int64
    token_type_ids: Tensor | None  # [B, L] int64
    wanted: Tensor  # [B, L] bool: tokens whose logits are needed
    positions: NDArray[np.int64]  # of the wanted tokens among all tokens of the unit, in row-major order

    def inputs(self, accepted: set[str], device: torch.device) -> dict[str, Tensor]:
        """Arguments of a model: input_ids, and attention_mask and token_type_ids if it accepts them."""
        tensors = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "token_type_ids": self.token_type_ids}
        return {k: v.to(device) for k, v in tensors.items() if v is not None and (k == "input_ids" or k in accepted)}


def batches(
    rows: TokenRows,
    wanted: NDArray[np.bool_],
    *,
    max_batch_tokens: int,
    pad_id: int,
    equal_lengths: bool = False,
    only: NDArray[np.int64] | None = None,
) -> Iterator[PaddedRows]:
    """Batches of at most max_batch_tokens padded tokens, but at least one row; longest rows first. Rows without tokens are left out.

    wanted: [N] tokens whose logits are needed. equal_lengths: no padding, all rows of a batch have the same length. only: numbers of the
    rows to batch, ascending. Rows of equal length keep their order: equal rows give equal batches.
    """
    lengths = np.diff(rows.row_offsets)
    chosen_rows = np.arange(len(rows)) if only is None else only
    chosen_rows = chosen_rows[lengths[chosen_rows] > 0]
    order = chosen_rows[np.argsort(-lengths[chosen_rows], kind="stable")]
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        chosen = order[start : start + max(max_batch_tokens // longest, 1)]
        if equal_lengths:
            chosen = chosen[lengths[chosen] == lengths[chosen[0]]]
        start += len(chosen)
        mask = np.arange(longest)[None, :] < lengths[chosen, None]  # [B, L]
        tokens = np.minimum(rows.row_offsets[chosen, None] + np.arange(longest)[None, :], len(rows.input_ids) - 1)

        def padded(values: NDArray[Any], fill: int, tokens: NDArray[Any] = tokens, mask: NDArray[Any] = mask) -> Tensor:
            return torch.from_numpy(np.where(mask, values[tokens], fill).astype(np.int64))

        is_wanted = wanted[tokens] & mask  # [B, L]
        yield PaddedRows(
            rows=chosen,
            input_ids=padded(rows.input_ids, pad_id),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            token_type_ids=None if rows.token_type_ids is None else padded(rows.token_type_ids, 0),
            wanted=torch.from_numpy(is_wanted),
            positions=tokens[is_wanted],
        )


def split(batch: PaddedRows, rows: int) -> Iterator[PaddedRows]:
    """Split a batch into parts of at most `rows` rows, at the same padded length."""
    if len(batch.rows) <= rows:
        yield batch
        return
    kept = np.concatenate([[0], batch.wanted.sum(1).cumsum(0).numpy()])  # wanted tokens before each row
    for start in range(0, len(batch.rows), rows):
        part = slice(start, min(start + rows, len(batch.rows)))
        types = batch.token_type_ids
        yield replace(
            batch,
            rows=batch.rows[part],
            input_ids=batch.input_ids[part],
            attention_mask=batch.attention_mask[part],
            token_type_ids=None if types is None else types[part],
            wanted=batch.wanted[part],
            positions=batch.positions[kept[part.start] : kept[part.stop]],
        )


def probe(vocab_size: int, pad_id: int) -> PaddedRows:
    """A batch to try a model with: two rows, of 9 and 5 tokens, whose ids are not pad_id; the first row is a pair."""
    lengths = np.array([9, 5])
    ids = np.arange(3, 3 + lengths.sum()) * 37 % vocab_size
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = TokenRows(
        row_offsets=offsets,
        input_ids=np.where(ids == pad_id, (ids + 1) % vocab_size, ids).astype(np.uint32),
        token_type_ids=(np.arange(len(ids)) // 5 == 1).astype(np.uint8),
        special=np.zeros(len(ids), np.bool_),
        truncated=0,
    )
    return next(batches(rows, ~rows.special, max_batch_tokens=18, pad_id=pad_id))


def shortest_alone(batch: PaddedRows) -> PaddedRows:
    """The last and shortest row of a batch, without padding."""
    (last,) = list(split(batch, 1))[-1:]
    length = int(last.attention_mask.sum())
    types = last.token_type_ids
    return replace(
        last,
        input_ids=last.input_ids[:, :length],
        attention_mask=last.attention_mask[:, :length],
        token_type_ids=None if types is None else types[:, :length],
        wanted=last.wanted[:, :length],
    )
