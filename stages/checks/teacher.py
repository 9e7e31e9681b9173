"""Run stored rows through the teacher again and measure how far the stored soft ids are from its output.

Legend: N tokens, M of them with entries, V vocabulary, K entries per token at most, S extra temperatures.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.schemas.config import GenerationConfig
from textsmooth.stages.models.teacher import Teacher, chunks
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.tokens.masked_context import passes
from textsmooth.stages.tokens.tokenize import TokenRows

MOST_BATCH, MOST_CHUNK = 65_536, 4_096  # tokens at once: limits for settings from an untrusted manifest


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest differences that rounding explains."""

    kl: float  # nats, of one token
    variation: float  # total variation of one token
    mean_variation: float  # over all tokens
    ids: float  # share of the entries with another id
    partition: float  # absolute, of a stored log-partition times its temperature

    def with_rounding(self, bound: float, topk: int) -> Self:
        """The limits where a codec rounds by a mean total variation of at most `bound`.

        Its cells are at most 2 bound sqrt(p) to either side, and sqrt(p) sums to sqrt(topk + 1) at most over the entries and the tail of a
        token; scaling them to sum 1 may double the variation. A sample may have a mean above the bound.
        """
        outcomes = topk + 1
        return replace(
            self,
            kl=self.kl + 4 * outcomes * bound**2,
            variation=self.variation + 2 * bound * outcomes**0.5,
            mean_variation=self.mean_variation + 2 * bound,
        )


# About ten times the differences of rows stored from float32 and run again in other batches, by number format: docs/sharing.md
LIMITS = {
    "float32": Limits(kl=1e-4, variation=0.005, mean_variation=5e-4, ids=0.005, partition=0.01),
    "float16": Limits(kl=1e-3, variation=0.03, mean_variation=2e-3, ids=0.005, partition=0.06),
    "bfloat16": Limits(kl=0.05, variation=0.3, mean_variation=0.02, ids=0.05, partition=0.7),
}


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Stored soft ids of M tokens against the teacher's output. The outcomes compared are the entries and the tail."""

    token: NDArray[np.int64]  # [M] indexes among the N tokens
    kl: NDArray[np.float64]  # [M] nats, KL(stored || teacher)
    variation: NDArray[np.float64]  # [M] total variation, or the difference of p(original) if that is larger
    ids: NDArray[np.int64]  # [M] stored ids that are not among the teacher's equally many most probable ids
    entries: NDArray[np.int64]  # [M]
    partition: NDArray[np.float64]  # [M] largest difference of a log-partition, times its temperature; 0 where none is stored


def differences(teacher: Teacher, block: TokenBlock, config: GenerationConfig, *, vocab_size: int, mask_id: int | None) -> Differences:
    """Run rows through the teacher again with the settings of the dataset, and compare."""
    sizes = np.diff(block.soft.offsets)
    has = sizes > 0
    tokens = TokenRows(
        row_offsets=block.row_offsets.astype(np.int64),
        input_ids=block.input_ids,
        token_type_ids=block.token_type_ids,
        special=~has,
        truncated=0,
    )
    stored = _Stored(block, sizes)
    source = (
        batch
        for run in passes(tokens, has, count=config.passes, mask_id=mask_id)
        for batch in teacher.batches(run.tokens, run.wanted, max_batch_tokens=min(config.max_batch_tokens, MOST_BATCH), only=run.rows)
    )

    def compared(logits: Tensor, where: NDArray[np.int64]) -> NDArray[np.float64]:
        return stored.compared(logits[: len(where), :vocab_size], where, config.extra_temperatures)

    compared_chunks = list(chunks(teacher, source, chunk_tokens=min(config.chunk_tokens, MOST_CHUNK), use=compared))
    where = np.concatenate([np.zeros(0, np.int64), *(place for _, place in compared_chunks)])
    order = np.argsort(where)
    kl, variation, ids, partition = np.concatenate([np.zeros((4, 0)), *(values for values, _ in compared_chunks)], axis=1)[:, order]
    token = where[order]
    return Differences(token=token, kl=kl, variation=variation, ids=ids.astype(np.int64), entries=sizes[token], partition=partition)


class _Stored:
    """The stored soft ids of N tokens, compared chunk by chunk."""

    def __init__(self, block: TokenBlock, sizes: NDArray[np.int64]) -> None:
        self.block, self.sizes = block, sizes

    @torch.inference_mode()
    def compared(self, logits: Tensor, where: NDArray[np.int64], temperatures: tuple[float, ...]) -> NDArray[np.float64]:
        """[4, n] float64 for the tokens at `where`: KL, total variation, ids that differ, log-partition. logits: [n, V]."""
        soft, sizes, device = self.block.soft, self.sizes[where], logits.device
        widest = int(sizes.max())
        inside = np.arange(widest) < sizes[:, None]  # [n, K]
        at = np.minimum(soft.offsets[where][:, None] + np.arange(widest), len(soft.ids) - 1)
        ids = torch.from_numpy(soft.ids[at].astype(np.int64)).to(device)
        mask = torch.from_numpy(inside).to(device)
        stored = torch.from_numpy(np.where(inside, soft.logprobs[at].astype(np.float64), -np.inf)).to(device).exp()
        tail = torch.from_numpy(soft.log_tail[where].astype(np.float64)).to(device).exp()
        whole = stored.sum(1) + tail
        stored, tail = stored / whole[:, None], tail / whole  # rounded numbers do not add up to 1
        logprobs = logits.double().log_softmax(-1)
        current = torch.where(mask, logprobs.gather(1, ids).exp(), 0.0)
        rest = torch.where(mask, ids, ids[:, :1])  # filler points to the first entry
        outside = logprobs.scatter(1, rest, -torch.inf).exp().sum(1)
        kl = (_xlogy(stored, current)).sum(1) + _xlogy(tail, outside)
        variation = 0.5 * ((stored - current).abs().sum(1) + (tail - outside).abs())
        original = torch.from_numpy(self.block.input_ids[where].astype(np.int64)).to(device)
        p_original = torch.from_numpy(soft.original_logprob[where].astype(np.float64)).to(device).exp()
        variation = torch.maximum(variation, (logprobs.gather(1, original[:, None])[:, 0].exp() - p_original).abs())
        least = logprobs.topk(widest, -1).values.gather(1, torch.from_numpy(sizes - 1).to(device)[:, None])
        others = (mask & (logprobs.gather(1, ids) < least)).sum(1)
        partition = torch.zeros_like(kl)
        for column, temperature in enumerate(temperatures):
            value = torch.from_numpy(soft.log_partition[where, column].astype(np.float64)).to(device)
            partition = torch.maximum(partition, temperature * ((logprobs / temperature).logsumexp(-1) - value).abs())
        return torch.stack([kl, variation, others.double(), partition]).cpu().numpy()


def _xlogy(p: Tensor, q: Tensor) -> Tensor:
    """p log(p / q); 0 where p is 0."""
    return torch.where(p > 0, p * (p.clamp_min(1e-300).log() - q.clamp_min(1e-300).log()), 0.0)
