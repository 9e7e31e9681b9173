"""Batches for masked-LM distillation: each row with the masks of one of the passes its dataset was generated with.

Which tokens a pass masks follows from N of `--context masked:N` and from the row alone: tokens with entries are numbered from 0, special
ones have none and are not counted; pass j masks those whose number is j modulo N. The soft ids of these, and no others, were taken
while exactly these were masked: they are the targets.
Legend: R rows, N tokens, L length, M masked tokens, E their entries.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.config import context_passes
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.dataset.collate import Batch, MaskedTargets, plain_batch, token_mask
from textsmooth.stages.dataset.row_gather import concatenate
from textsmooth.stages.dataset.row_source import SoftIdSource
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.counter_rng import uniform
from textsmooth.stages.soft_ids.target_distribution import target_distribution


class MaskedCollator:
    """Turns a block of rows, or a list of such blocks, into a padded Batch with mask tokens, and what belongs in their places.

    context_n: N of the dataset's `masked:N`. smoothing: k, mass and temperature of the targets; UsageError unless the temperature is 1 or
    among `temperatures`, those stored in the dataset. A row's pass is a function of seed, epoch, row and window, whatever the batch; from
    epoch to epoch a row goes through all its passes before one comes again.
    """

    def __init__(
        self,
        *,
        pad_id: int,
        mask_id: int,
        context_n: int,
        smoothing: Smoothing | None = None,
        temperatures: tuple[float, ...] = (),
        seed: int = 0,
    ) -> None:
        smoothing = smoothing or Smoothing()
        smoothing.partition_column(temperatures)
        self.pad_id, self.mask_id, self.context_n, self.seed, self.epoch = pad_id, mask_id, context_n, seed, 0
        self.smoothing = replace(smoothing, tail="original")  # anything but `renormalize`: the tail is a target of its own
        self.temperatures = temperatures

    @classmethod
    def for_dataset(cls, dataset: SoftIdSource, *, smoothing: Smoothing | None = None, seed: int = 0) -> Self:
        """With the tokens, passes and temperatures of a dataset. UsageError unless it was generated with masked context."""
        manifest = dataset.manifest
        mask = manifest.special_ids.get("mask")
        if mask is None:
            raise UsageError("the dataset's tokenizer has no mask token, masked-LM distillation needs one; choose another dataset")
        passes = context_passes(manifest.config["context"])
        if passes == 1:
            raise UsageError(
                "masked-LM distillation needs soft ids of masked tokens, this dataset's are unmasked; generate with --context masked:8"
            )
        return cls(
            pad_id=manifest.special_ids.get("pad") or 0,
            mask_id=mask,
            context_n=passes,
            smoothing=smoothing,
            temperatures=dataset.temperatures,
            seed=seed,
        )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, rows: TokenBlock | Sequence[TokenBlock]) -> Batch:
        block = rows if isinstance(rows, TokenBlock) else concatenate(rows)
        return self.masked(block, self.turns(block))

    def turns(self, block: TokenBlock) -> NDArray[np.int64]:
        """[R] the pass of each row in this epoch, below the number of passes in which it has something to mask."""
        before = np.concatenate([[0], np.cumsum(np.diff(block.soft.offsets) > 0)])  # maskable tokens in front of each
        runs = np.clip(np.diff(before[block.row_offsets]), 1, self.context_n)
        first = uniform(f"pass/{self.seed}", block.row, 0 if block.window is None else block.window) * runs
        turns: NDArray[np.int64] = (first.astype(np.int64) + self.epoch) % runs
        return turns

    def masked(self, block: TokenBlock, turns: NDArray[np.int64]) -> Batch:
        """The rows, each with the masks of its own pass. turns: [R] passes, from 0."""
        lengths = np.diff(block.row_offsets)
        maskable = np.diff(block.soft.offsets) > 0
        before = np.concatenate([[0], np.cumsum(maskable)])
        number = before[:-1] - np.repeat(before[block.row_offsets[:-1]], lengths)
        chosen = np.flatnonzero(maskable & (number % self.context_n == np.repeat(turns, lengths)))
        ids = block.input_ids.copy()
        original = ids[chosen].astype(np.int64)
        ids[chosen] = self.mask_id
        mask = token_mask(block.row_offsets)
        batch = plain_batch(replace(block, input_ids=ids), mask, self.pad_id)
        return replace(batch, masked=self._targets(_of(block.soft, chosen), np.flatnonzero(mask)[chosen], original))

    def _targets(self, soft: SoftIds, places: NDArray[np.int64], original: NDArray[np.int64]) -> MaskedTargets:
        entries = target_distribution(soft, self.smoothing, self.temperatures)
        return MaskedTargets(
            places=torch.from_numpy(places),
            original=torch.from_numpy(original),
            ids=torch.from_numpy(entries.ids.astype(np.int64)),
            probs=torch.from_numpy(np.require(entries.probs, np.float32, "C")),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(entries.counts)]).astype(np.int64)),
            tail=torch.from_numpy(entries.tail),
        )


def _of(soft: SoftIds, tokens: NDArray[np.int64]) -> SoftIds:
    """The soft ids of some tokens."""
    counts = np.diff(soft.offsets)[tokens]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    entries = np.arange(offsets[-1]) + np.repeat(soft.offsets[tokens] - offsets[:-1], counts)
    return SoftIds(
        offsets=offsets,
        ids=soft.ids[entries],
        logprobs=soft.logprobs[entries],
        log_tail=soft.log_tail[tokens],
        original_logprob=soft.original_logprob[tokens],
        log_partition=soft.log_partition[tokens],
    )
