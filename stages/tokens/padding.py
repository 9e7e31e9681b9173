"""Rows of tokens cut into padded batches of similar length.

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

ROOM = "lower --max-length, and --max-batch-tokens to leave it more room"  # what to do if a batch of one row is too large


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one forward pass, of similar length."""

    rows: NDArray[np.int64]  # [B] which rows
    input_ids: Tensor  # [B, L] int64, padded
    attention_mask: Tensor  # [B, L] int64
    token_type_ids: Tensor | None  # [B, L] int64
    wanted: Tensor  # [B, L] bool: tokens whose logits are asked for
    positions: NDArray[np.int64]  # of the wanted tokens among all tokens, in row-major order

    def inputs(self, taken: set[str], device: torch.device) -> dict[str, Tensor]:
        """What a model is called with: input_ids, and those of attention_mask and token_type_ids that it takes."""
        found = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "token_type_ids": self.token_type_ids}
        return {k: v.to(device) for k, v in found.items() if v is not None and (k == "input_ids" or k in taken)}


def batches(
    rows: TokenRows,
    wanted: NDArray[np.bool_],
    *,
    max_batch_tokens: int,
    pad_id: int,
    equal_lengths: bool = False,
    only: NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """Cut rows, longest first, into batches of at most max_batch_tokens padded tokens (one row at least); rows without tokens are in none.

    wanted: [N] tokens whose logits are asked for. equal_lengths: no padding, a batch holds rows of one length. only: which rows, ascending.
    Rows of equal length keep their order: equal rows, equal batches.
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

        asked = wanted[tokens] & mask
        yield Batch(
            rows=chosen,
            input_ids=padded(rows.input_ids, pad_id),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            token_type_ids=None if rows.token_type_ids is None else padded(rows.token_type_ids, 0),
            wanted=torch.from_numpy(asked),
            positions=tokens[asked],
        )


def split(batch: Batch, rows: int) -> Iterator[Batch]:
    """A batch in parts of at most so many rows, at the same padded length."""
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


def probe(vocab_size: int, pad_id: int) -> Batch:
    """Two rows, 9 and 5 tokens, of ids that are not pad_id; the first row a pair."""
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


def shortest_alone(batch: Batch) -> Batch:
    """The last, shortest row of a batch without its padding."""
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
