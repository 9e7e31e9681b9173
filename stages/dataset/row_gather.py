"""Rows picked out of blocks and laid end to end. What is done here is done for every row of every batch, so it is done in few calls.

Legend: R rows, N tokens, E entries.
"""

from collections.abc import Sequence
from operator import attrgetter, getitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.codec import TokenBlock


def gather(blocks: Sequence[TokenBlock], rows: Sequence[int]) -> TokenBlock:
    """Row rows[i] of blocks[i], one after the other, as one block with int64 offsets from 0. At least one; all of one dataset."""
    here = [slice(row, row + 1) for row in rows]
    tokens, entries, stops = [], [], []
    for block, row in zip(blocks, rows, strict=True):
        start, stop = block.row_offsets.item(row), block.row_offsets.item(row + 1)
        offsets = block.soft.offsets
        tokens.append(slice(start, stop))
        entries.append(slice(offsets.item(start), offsets.item(stop)))
        stops.append(offsets[start + 1 : stop + 1])

    def joined(name: str, parts: list[slice]) -> Any:
        return np.concatenate(list(map(getitem, map(attrgetter(name), blocks), parts)))

    first = blocks[0]
    optional = {"token_type_ids": tokens, "label": here, "window": here, "spans": here}
    found = {name: joined(name, parts) for name, parts in optional.items() if getattr(first, name) is not None}
    if first.teacher_logits is not None:
        found["teacher_logits"] = joined("teacher_logits", here if first.spans is None else tokens)
    row_offsets = _ends([part.stop - part.start for part in tokens])
    entry_offsets = _ends([part.stop - part.start for part in entries])
    shift = entry_offsets[:-1] - np.array([part.start for part in entries])
    offsets = np.zeros(int(row_offsets[-1]) + 1, np.int64)
    np.add(np.concatenate(stops), np.repeat(shift, np.diff(row_offsets)), out=offsets[1:])
    partition = np.zeros((len(offsets) - 1, 0), np.float32)
    return TokenBlock(
        row=joined("row", here),
        row_offsets=row_offsets,
        input_ids=joined("input_ids", tokens),
        soft=SoftIds(
            offsets=offsets,
            ids=joined("soft.ids", entries),
            logprobs=joined("soft.logprobs", entries),
            log_tail=joined("soft.log_tail", tokens),
            original_logprob=joined("soft.original_logprob", tokens),
            log_partition=joined("soft.log_partition", tokens) if first.soft.log_partition.shape[1] else partition,
        ),
        **{"token_type_ids": None, "label": None, **found},
    )


def concatenate(blocks: Sequence[TokenBlock]) -> TokenBlock:
    """The rows of the blocks, one after the other, as one block with offsets from 0. Needs at least one block; of one dataset."""
    soft = [block.soft for block in blocks]

    def joined(name: str) -> Any:
        parts = [getattr(block, name) for block in blocks]
        return None if parts[0] is None else np.concatenate(parts)

    return TokenBlock(
        row=joined("row"),
        row_offsets=_ends(np.concatenate([np.diff(block.row_offsets) for block in blocks])),
        input_ids=joined("input_ids"),
        token_type_ids=joined("token_type_ids"),
        soft=SoftIds(
            offsets=_ends(np.concatenate([np.diff(s.offsets) for s in soft])),
            ids=np.concatenate([s.ids for s in soft]),
            logprobs=np.concatenate([s.logprobs for s in soft]),
            log_tail=np.concatenate([s.log_tail for s in soft]),
            original_logprob=np.concatenate([s.original_logprob for s in soft]),
            log_partition=np.concatenate([s.log_partition for s in soft]),
        ),
        label=joined("label"),
        window=joined("window"),
        spans=joined("spans"),
        teacher_logits=joined("teacher_logits"),
    )


def _ends(counts: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Offsets of compressed sparse rows that hold so many values each: one more than there are rows, from 0."""
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends
