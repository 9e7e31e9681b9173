"""A batch of rows as padded tensors, and its smoothed form: k, mass, temperature, tail and lam are chosen here, at training time.

    s_t = (1 - lam) * onehot(x_t) + lam * p_t        p_t: the stored entries, cut and tempered, and what becomes of the tail

s is never built. A bag of (id, weight) pairs stands for each of the B * L positions, compressed sparse rows for `embedding_bag`:
first the input token itself, then the entries. A pad or a token that was left plain has only itself, with weight 1.
Legend: B rows, L length, N tokens, E entries, M entries of the bag, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.row_gather import concatenate
from textsmooth.stages.dataset.row_source import SoftIdSource
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.counter_rng import beta, uniform
from textsmooth.stages.soft_ids.target_distribution import draw, keep_entries, target_distribution
from textsmooth.stages.soft_ids.temperature import temperature_note

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
    teacher_logits: torch.Tensor | None = None  # [B, C] float32; [B, L, 2] for span tasks, 0 in pads
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

    def to_dict(self) -> dict[str, torch.Tensor]:
        """What a model of transformers is called with, as a flat dictionary: of tensors that are there.

        input_ids, attention_mask, token_type_ids, labels or start_positions and end_positions; soft_ids, soft_weights,
        soft_offsets and soft_mean for `smooth_inputs`.
        """
        parts = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
            "labels": self.labels,
        }
        if self.spans is not None:
            parts |= {"start_positions": self.spans[:, 0], "end_positions": self.spans[:, 1]}
        if self.soft is not None:
            bag = self.soft
            parts |= {"soft_ids": bag.ids, "soft_weights": bag.weights, "soft_offsets": bag.offsets, "soft_mean": bag.mean_weight}
        return {name: value for name, value in parts.items() if value is not None}


def token_mask(row_offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[B, L] where the padded rows have tokens."""
    lengths = np.diff(row_offsets)
    mask: NDArray[np.bool_] = np.arange(lengths.max()) < lengths[:, None]
    return mask


def pad_tokens(values: NDArray[Any], mask: NDArray[np.bool_], fill: int = 0) -> torch.Tensor:
    """Values of the N tokens, [N] or [N, C], in their places of [B, L] or [B, L, C]: whole numbers as int64, others as float32."""
    out = np.full((*mask.shape, *values.shape[1:]), fill, np.float32 if values.dtype.kind == "f" else np.int64)
    out[mask] = values
    return torch.from_numpy(out)


def plain_batch(block: TokenBlock, mask: NDArray[np.bool_], pad_id: int) -> Batch:
    """The rows of a block with all but their soft ids. DatasetError for an answer outside its row."""
    types, logits = block.token_type_ids, block.teacher_logits
    if block.spans is not None and len(beyond := np.flatnonzero((block.spans >= mask.sum(1, keepdims=True)).any(1))):
        raise DatasetError(f"row {block.row[beyond[0]]} has an answer beyond its last token; make the dataset again with --overwrite")
    if logits is not None:
        teacher_logits = torch.from_numpy(np.array(logits)) if block.spans is None else pad_tokens(logits, mask)
    return Batch(
        rows=np.array(block.row),
        input_ids=pad_tokens(block.input_ids, mask, pad_id),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        token_type_ids=None if types is None else pad_tokens(types, mask),
        labels=_labels(block.label),
        soft=None,
        spans=None if block.spans is None else torch.from_numpy(block.spans.astype(np.int64)),
        teacher_logits=None if logits is None else teacher_logits,
    )


class SmoothedCollator:
    """Turns a block of rows, or a list of such blocks, into a padded Batch.

    pad_id: what stands in empty positions. smoothing: how to smooth, or None for plain ids only. temperatures: those stored in
    the dataset other than 1; another one is interpolated if vocab_size is given, UsageError if not. seed: of lam, draws and the
    rows that are smoothed, which are the same for a row in whatever batch, and others in each epoch.
    """

    def __init__(
        self,
        *,
        pad_id: int,
        smoothing: Smoothing | None = None,
        temperatures: tuple[float, ...] = (),
        vocab_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.pad_id = pad_id
        self.smoothing = smoothing
        self.temperatures = temperatures
        self.vocab_size = vocab_size
        self.seed = seed
        self.epoch = 0
        self.note: str | None = None  # what a user should be told, in one line
        if smoothing is not None and smoothing.tail != "renormalize" and vocab_size is None:
            smoothing.partition_column(temperatures)

    @classmethod
    def for_dataset(cls, dataset: SoftIdSource, *, smoothing: Smoothing | None = None, seed: int = 0) -> "SmoothedCollator":
        """With the pad token, temperatures and vocabulary of a dataset.

        `note` then says how far a temperature that is not stored may be off. UsageError if that is too much.
        """
        manifest = dataset.manifest
        found = cls(
            pad_id=manifest.special_ids["pad"] or 0,
            smoothing=smoothing,
            temperatures=dataset.temperatures,
            vocab_size=dataset.vocab_size,
            seed=seed,
        )
        if smoothing is not None:
            found.note = temperature_note(smoothing, dataset.temperatures, dataset.vocab_size, dataset.sample_soft_ids)
        return found

    def set_epoch(self, epoch: int) -> None:
        """Draw other numbers than in the epochs before."""
        self.epoch = epoch

    def to_dict(self, rows: TokenBlock | Sequence[TokenBlock]) -> dict[str, torch.Tensor]:
        """The batch as `Batch.to_dict` has it: the collate function for transformers.Trainer."""
        return self(rows).to_dict()

    def __call__(self, rows: TokenBlock | Sequence[TokenBlock]) -> Batch:
        block = rows if isinstance(rows, TokenBlock) else concatenate(list(rows))
        mask = token_mask(block.row_offsets)
        batch = plain_batch(block, mask, self.pad_id)
        return batch if self.smoothing is None else replace(batch, soft=self._bag(block, self.smoothing, batch, mask))

    def _uniform(self, what: str, block: TokenBlock) -> NDArray[np.float64]:
        return uniform(f"{what}/{self.seed}/{self.epoch}", block.row, 0 if block.window is None else block.window)

    def _bag(self, block: TokenBlock, how: Smoothing, batch: Batch, mask: NDArray[np.bool_]) -> SoftBag:
        lengths, slot = np.diff(block.row_offsets), np.flatnonzero(mask)
        soft = block.soft
        if how.smoothed_share < 1.0:
            soft = keep_entries(soft, np.repeat(self._uniform("share", block) < how.smoothed_share, lengths))
        entries = target_distribution(soft, how, self.temperatures, self.vocab_size)
        if how.draws is not None:
            entries = draw(entries, self._draws(block, lengths, how.draws))
        if how.lam_shape is None:
            lam = np.full(len(slot), how.lam, np.float32)  # [N]
        else:
            lam = np.repeat(beta(how.lam_shape, self._uniform("lam", block)), lengths)
        counts = np.ones(mask.size, np.int64)  # the token itself, in front
        counts[slot] += entries.counts
        offsets = np.zeros(mask.size + 1, np.int32)
        np.cumsum(counts, out=offsets[1:])
        is_entry = np.ones(offsets[-1], np.bool_)
        is_entry[offsets[:-1]] = False
        ids = np.empty(offsets[-1], np.int32)
        ids[offsets[:-1]] = batch.input_ids.view(-1).numpy()
        ids[is_entry] = entries.ids
        own = np.where((entries.counts > 0) | (entries.tail > 0), 1 - lam, np.float32(1))
        if how.tail == "original":
            own = own + lam * entries.tail
        weights = np.ones(offsets[-1], np.float32)
        weights[offsets[slot]] = own
        weights[is_entry] = entries.probs * np.repeat(lam, entries.counts)
        mean = None
        if how.tail == "mean":
            mean = np.zeros(mask.size, np.float32)
            mean[slot] = lam * entries.tail
        return SoftBag(
            ids=torch.from_numpy(ids),
            weights=torch.from_numpy(weights),
            offsets=torch.from_numpy(offsets),
            mean_weight=None if mean is None else torch.from_numpy(mean),
            shape=(mask.shape[0], mask.shape[1]),
        )

    def _draws(self, block: TokenBlock, lengths: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
        """[N, draws] a number for each draw of each token."""
        place = np.arange(len(block.input_ids)) - np.repeat(block.row_offsets[:-1], lengths)
        window = 0 if block.window is None else np.repeat(block.window, lengths)[:, None]
        row = np.repeat(block.row, lengths)
        return uniform(f"draw/{self.seed}/{self.epoch}", row[:, None], window, place[:, None], np.arange(draws))


def _labels(label: NDArray[Any] | None) -> torch.Tensor | None:
    if label is None:
        return None
    return torch.from_numpy(label.astype(np.float32 if label.dtype.kind == "f" else np.int64))
