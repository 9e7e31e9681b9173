"""A batch of rows as padded tensors, and its smoothed form: k, mass, temperature, tail and lam are chosen here, at training time.

    s_t = (1 - lam) * onehot(x_t) + lam * p_t        p_t: the stored entries, cut and tempered, and what becomes of the tail

s is never built. A bag of (id, weight) pairs stands for each of the B * L positions, compressed sparse rows for `embedding_bag`:
first the input token itself, then the entries. A pad or a token that was left plain has only itself, with weight 1.
Legend: B rows, L length, N tokens, E entries, M entries of the bag, S extra temperatures.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.codec import TokenBlock

_Moved = TypeVar("_Moved", "SoftBag", "MaskedTargets", "Batch")


def _moved(parts: _Moved, device: torch.device) -> _Moved:
    """The same with every tensor on a device."""
    values = {field.name: getattr(parts, field.name) for field in fields(parts)}
    return replace(parts, **{name: value.to(device) for name, value in values.items() if hasattr(value, "to")})


@dataclass(frozen=True, kw_only=True)
class SoftBag:
    """The mixed distributions s of B * L positions, as bags of weighted ids."""

    ids: torch.Tensor  # [M] int32
    weights: torch.Tensor  # [M] float32
    offsets: torch.Tensor  # [B * L + 1] int32
    mean_weight: torch.Tensor | None  # [B * L] float32: mass that goes to the mean embedding; None if no position has any
    shape: tuple[int, int]  # B, L

    def to(self, device: torch.device) -> "SoftBag":
        return _moved(self, device)


@dataclass(frozen=True, kw_only=True)
class MaskedTargets:
    """What a student is to say in the M masked places of a batch: sparse distributions over the vocabulary, with the tail as one bucket."""

    places: torch.Tensor  # [M] int64 into the B * L positions, rising
    original: torch.Tensor  # [M] int64 the token that was masked
    ids: torch.Tensor  # [E] int64 the entries of all places, one place after the other
    probs: torch.Tensor  # [E] float32 p at the temperature
    offsets: torch.Tensor  # [M + 1] int64: place m has entries offsets[m] .. offsets[m + 1]
    tail: torch.Tensor  # [M] float32 p of everything that is no entry

    def to(self, device: torch.device) -> "MaskedTargets":
        return _moved(self, device)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows padded to the longest of them."""

    rows: NDArray[np.int64]  # [B] position in the source split
    input_ids: torch.Tensor  # [B, L] int64
    attention_mask: torch.Tensor  # [B, L] int64
    token_type_ids: torch.Tensor | None  # [B, L] int64
    labels: torch.Tensor | None  # [B] int64 (class) or float32 (value)
    soft: SoftBag | None  # None if the collator was not asked for it
    spans: torch.Tensor | None = None  # [B, 2] int64 first and last token of the answer
    teacher_logits: torch.Tensor | None = None  # [B, C] float32; [B, L, 2] for span tasks
    masked: MaskedTargets | None = None  # of a masked-LM batch, whose input_ids have mask tokens in these places
    weight: torch.Tensor | None = None  # [B] float32: 0 for rows that only fill the batch up; None: all count
    step: int = 0  # which of the epoch's global batches this is, or is a part of
    samples: int = 0  # rows of the epoch that are consumed once that global batch is

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> "Batch":
        return _moved(self, device)


@dataclass(frozen=True, kw_only=True)
class CutSoftIds:
    """Soft ids after k, mass, temperature and tail: what p is, for N tokens."""

    counts: NDArray[np.int64]  # [N] entries left; 0 for a plain token
    ids: NDArray[np.unsignedinteger]  # [E]
    probs: NDArray[np.float32]  # [E] p at the temperature
    place: NDArray[np.int64]  # [E] 0 for a token's first entry, 1 for the next …
    tail: NDArray[np.float32]  # [N] mass that is left for the tail policy; 0 for `renormalize`


def cut(soft: SoftIds, how: Smoothing, partition_column: int | None) -> CutSoftIds:
    """Keep the entries that k and mass allow, at the temperature asked for. Entries are most probable first, so a cut is a prefix.

    Probabilities and tail of a token with entries sum to 1, but for float32 rounding.
    """
    stored = np.diff(soft.offsets)
    begin = soft.offsets[:-1]
    place = np.arange(len(soft.ids)) - np.repeat(begin, stored)
    ids, logprobs, counts = soft.ids, soft.logprobs.astype(np.float32), stored
    keep: NDArray[np.bool_] | None = None
    if how.topk is not None:
        keep = place < how.topk
    if how.mass < 1.0:
        before = np.concatenate([[0.0], np.cumsum(np.exp(logprobs.astype(np.float64)))])
        reached = before[:-1] - np.repeat(before[begin], stored)  # mass of the entries in front of each
        fewest = (reached < how.mass) | (place == 0)
        keep = fewest if keep is None else keep & fewest
    if keep is not None:
        total = np.concatenate([[0], np.cumsum(keep)])
        counts = total[soft.offsets[1:]] - total[begin]
        ids, logprobs, place = ids[keep], logprobs[keep], place[keep]
    if partition_column is not None:
        partition = np.repeat(soft.log_partition[:, partition_column], counts)
        logprobs = logprobs / np.float32(how.temperature) - partition
    probs = np.exp(logprobs)
    mass = np.bincount(np.repeat(np.arange(len(counts)), counts), weights=probs, minlength=len(counts))
    smoothed = counts > 0
    # rounding to float16 may push the stored mass a little over 1
    scale = np.where(smoothed, mass, 1.0) if how.tail == "renormalize" else np.maximum(mass, 1.0)
    tail = np.zeros_like(mass) if how.tail == "renormalize" else np.where(smoothed, 1.0 - mass / scale, 0.0)
    probs = (probs / np.repeat(scale, counts)).astype(np.float32)
    return CutSoftIds(counts=counts, ids=ids, probs=probs, place=place, tail=tail.astype(np.float32))


class SmoothedCollator:
    """Turns a block of rows into a padded Batch.

    pad_id: what stands in empty positions. smoothing: how to smooth, or None for plain ids only. temperatures: those stored in
    the dataset other than 1. UsageError if smoothing asks for another.
    """

    def __init__(self, *, pad_id: int, smoothing: Smoothing | None = None, temperatures: tuple[float, ...] = ()) -> None:
        self.pad_id = pad_id
        self.smoothing = smoothing
        self._column = None if smoothing is None else smoothing.partition_column(temperatures)

    def __call__(self, block: TokenBlock) -> Batch:
        lengths = np.diff(block.row_offsets)
        shape = (len(block), int(lengths.max()))
        # where each token goes among the B * L positions
        slot = np.arange(len(block.input_ids)) + np.repeat(np.arange(shape[0]) * shape[1] - block.row_offsets[:-1], lengths)

        def padded(values: NDArray[Any], fill: int) -> NDArray[np.int64]:
            out = np.full(shape[0] * shape[1], fill, np.int64)
            out[slot] = values
            return out

        input_ids = padded(block.input_ids, self.pad_id)
        mask = padded(np.ones(len(slot), np.int64), 0)
        types = None if block.token_type_ids is None else padded(block.token_type_ids, 0)
        return Batch(
            rows=np.array(block.row),
            input_ids=torch.from_numpy(input_ids).view(shape),
            attention_mask=torch.from_numpy(mask).view(shape),
            token_type_ids=None if types is None else torch.from_numpy(types).view(shape),
            labels=_labels(block.label),
            soft=None if self.smoothing is None else self._bag(block.soft, self.smoothing, input_ids, slot, shape),
        )

    def _bag(self, soft: SoftIds, how: Smoothing, input_ids: NDArray[np.int64], slot: NDArray[np.int64], shape: tuple[int, int]) -> SoftBag:
        entries = cut(soft, how, self._column)
        counts = np.zeros(len(input_ids), np.int64)
        counts[slot] = entries.counts
        offsets = np.concatenate([[0], np.cumsum(counts + 1)])  # one more: the token itself, in front
        ids = np.empty(offsets[-1], np.int32)
        weights = np.empty(offsets[-1], np.float32)
        own = np.where(entries.counts > 0, 1.0 - how.lam, 1.0)
        if how.tail == "original":
            own = own + how.lam * entries.tail
        ids[offsets[:-1]] = input_ids
        weights[offsets[:-1]] = 1.0
        weights[offsets[slot]] = own
        where = np.repeat(offsets[slot] + 1, entries.counts) + entries.place
        ids[where] = entries.ids
        weights[where] = np.float32(how.lam) * entries.probs
        mean = None
        if how.tail == "mean":
            mean = np.zeros(len(input_ids), np.float32)
            mean[slot] = np.float32(how.lam) * entries.tail
        return SoftBag(
            ids=torch.from_numpy(ids),
            weights=torch.from_numpy(weights),
            offsets=torch.from_numpy(offsets.astype(np.int32)),
            mean_weight=None if mean is None else torch.from_numpy(mean),
            shape=shape,
        )


def _labels(label: NDArray[Any] | None) -> torch.Tensor | None:
    if label is None:
        return None
    return torch.from_numpy(label.astype(np.float32 if label.dtype.kind == "f" else np.int64))
