"""Masked context: which tokens of a row are masked in which pass, so that each token is predicted once without being seen.

Legend: W rows, N tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textsmooth.stages.tokens.tokenize import TokenRows


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass over rows."""

    tokens: TokenRows  # with mask tokens where this pass masks
    wanted: NDArray[np.bool_]  # [N] tokens whose soft ids this pass gives
    rows: NDArray[np.int64]  # which rows are run, ascending
    counts: NDArray[np.bool_]  # [W] rows that this pass counts as done: of each row of text one, in one of its passes, spread over them
    idle: int  # rows of text that are run in no pass; told by the first


def passes(tokens: TokenRows, wanted: NDArray[np.bool_], *, count: int, mask_id: int | None) -> Iterator[Pass]:
    """The passes over rows: one over the plain text if count is 1; else pass j masks every token whose number in its row is j mod count.

    Numbers count from 0 and leave special tokens out, which are never masked. wanted: [N], of which each pass has the masked ones.
    A row with nothing to mask in a pass is not run in it; one without tokens, in none.
    """
    first = tokens.window == 0
    if count == 1:
        full = np.diff(tokens.row_offsets) > 0
        yield Pass(tokens=tokens, wanted=wanted, rows=np.flatnonzero(full), counts=first & full, idle=int((first & ~full).sum()))
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
