"""Masked context (`--context masked:N`): mask each token of a row in exactly one of N passes, and predict it there.

Legend: W rows, N tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textsmooth.stages.tokens.tokenize import TokenRows


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass over the rows."""

    tokens: TokenRows  # with mask tokens in place of those that this pass masks
    wanted: NDArray[np.bool_]  # [N] tokens whose soft ids come from this pass
    rows: NDArray[np.int64]  # numbers of the rows to run, ascending
    counts: NDArray[np.bool_]  # [W] rows to count as done after this pass: one per row of text, spread over the passes
    idle: int  # rows of text that no pass runs; given by the first pass


def passes(tokens: TokenRows, wanted: NDArray[np.bool_], *, count: int, mask_id: int | None) -> Iterator[Pass]:
    """The passes over rows: one over the plain text if count is 1; else pass j masks the tokens number j, j + count, … of each row.

    Tokens are numbered from 0 without the special ones, which are never masked. wanted: [N] tokens that need soft ids; each pass
    has those that it masks. A pass leaves out rows in which it masks nothing; rows without tokens are in no pass.
    """
    first = tokens.window == 0
    if count == 1:
        has_tokens = np.diff(tokens.row_offsets) > 0
        idle = int((first & ~has_tokens).sum())
        yield Pass(tokens=tokens, wanted=wanted, rows=np.flatnonzero(has_tokens), counts=first & has_tokens, idle=idle)
        return
    assert mask_id is not None
    before = np.concatenate([[0], np.cumsum(~tokens.special)])  # maskable tokens before each token
    maskable = np.diff(before[tokens.row_offsets])  # [W]
    turn = (before[:-1] - np.repeat(before[tokens.row_offsets[:-1]], np.diff(tokens.row_offsets))) % count
    runs = np.minimum(maskable, count)  # [W] passes in which a row has something to mask
    for number in range(max(int(runs.max(initial=0)), 1)):
        masked = ~tokens.special & (turn == number)
        yield Pass(
            tokens=replace(tokens, input_ids=np.where(masked, np.asarray(mask_id, tokens.input_ids.dtype), tokens.input_ids)),
            wanted=wanted & masked,
            rows=np.flatnonzero(runs > number),
            counts=first & (np.arange(len(tokens)) % np.maximum(runs, 1) == number),
            idle=int((first & (runs == 0)).sum()) if number == 0 else 0,
        )
