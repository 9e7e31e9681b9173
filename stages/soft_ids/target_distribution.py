"""The distribution p of each token that training uses, from stored soft ids by k, mass, temperature and tail; and samples of it.

Random numbers are counter-based: each is a hash of seed, epoch, row, window, token and draw. No generator has a state, so samples do not
depend on the batch, the rank, or where training was resumed.
Legend: N tokens, S tokens that have entries, K most entries of a token, E entries in all, M draws.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.temperature import log_partition


@dataclass(frozen=True, kw_only=True)
class TargetDistribution:
    """p of N tokens, after k, mass, temperature and tail."""

    counts: NDArray[np.int64]  # [N] number of entries; 0 for a plain token
    ids: NDArray[np.unsignedinteger]  # [E]
    probs: NDArray[np.float32]  # [E] p at the temperature
    tail: NDArray[np.float32]  # [N] mass left for the tail policy; 0 for `renormalize`


def target_distribution(
    soft: SoftIds, how: Smoothing, temperatures: tuple[float, ...] = (), vocab_size: int | None = None
) -> TargetDistribution:
    """p at a temperature, over the leading entries that k and mass allow.

    Probabilities and tail of a token with entries sum to 1, up to float32 rounding. temperatures: those of the columns of log_partition.
    Another temperature is interpolated, which needs vocab_size; UsageError without it. `renormalize` needs neither.
    """
    stored = np.diff(soft.offsets)
    tokens = np.flatnonzero(stored)
    counts, tail = np.zeros_like(stored), np.zeros(len(stored), np.float32)
    if not len(tokens):
        return TargetDistribution(counts=counts, ids=soft.ids[:0], probs=np.zeros(0, np.float32), tail=tail)
    kept = stored[tokens]
    ids, logprobs = _rectangle(soft.ids, kept, 0), _rectangle(_float32(soft.logprobs), kept, -np.inf)
    if how.topk is not None:
        ids, logprobs, kept = ids[:, : how.topk], logprobs[:, : how.topk], np.minimum(kept, how.topk)
    if how.mass < 1.0:
        reached = np.cumsum(np.exp(logprobs[:, :-1], dtype=np.float64), axis=1)
        kept = np.minimum(kept, 1 + (reached < how.mass).sum(1))
    if how.tail == "renormalize":  # the partition cancels out
        if how.temperature != 1.0:
            logprobs = (logprobs - logprobs[:, :1]) / np.float32(how.temperature)
    elif how.temperature != 1.0:
        logprobs = logprobs / np.float32(how.temperature) - log_partition(soft, how, temperatures, vocab_size)[tokens, None]
    keep = None if kept.min() == ids.shape[1] else np.arange(ids.shape[1]) < kept[:, None]
    probs = np.exp(logprobs)
    if keep is not None:
        probs *= keep
    mass = probs.sum(1)
    # rounding to float16 may push the stored mass a little over 1
    scale = mass if how.tail == "renormalize" else np.maximum(mass, 1.0)
    probs /= scale[:, None]
    tail[tokens] = 1.0 - mass / scale
    counts[tokens] = kept
    flat_ids, flat_probs = (ids.ravel(), probs.ravel()) if keep is None else (ids[keep], probs[keep])
    return TargetDistribution(counts=counts, ids=flat_ids, probs=flat_probs, tail=tail)


def draw(entries: TargetDistribution, uniforms: NDArray[np.float64]) -> TargetDistribution:
    """M ids drawn from each token's p, each with weight 1 / M. The expectation is p, tail included.

    uniforms: [N, M] in [0, 1). A draw from the tail adds no entry, only its weight to `tail`.
    """
    draws = uniforms.shape[1]
    tokens = np.flatnonzero(entries.counts)
    counts, tail = np.zeros_like(entries.counts), np.zeros_like(entries.tail)
    if not len(tokens):
        return entries
    ids, probs = (_rectangle(values, entries.counts[tokens], 0) for values in (entries.ids, entries.probs))
    drawn = _reached(np.cumsum(probs, axis=1, dtype=np.float64), uniforms[tokens])
    last = entries.counts[tokens] - 1
    # without a tail, only rounding can lead past the last entry
    drawn = np.minimum(drawn, np.where(entries.tail[tokens] == 0, last, ids.shape[1])[:, None])
    is_entry = drawn <= last[:, None]
    drawn += np.arange(0, ids.size, ids.shape[1])[:, None]
    drawn_ids = ids.ravel()[drawn[is_entry]]
    counts[tokens] = is_entry.sum(1)
    tail[tokens] = 1 - counts[tokens] / np.float32(draws)
    return TargetDistribution(counts=counts, ids=drawn_ids, probs=np.full(len(drawn_ids), 1 / draws, np.float32), tail=tail)


def _reached(upto: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each number of a token [S, M], how many of its values, ascending in [S, K], are at most that number: [S, M].

    Most draws give the first entry or the tail; the others are found by bisection, all at once.
    """
    (_, width), draws = upto.shape, numbers.shape[1]
    before, past = numbers < upto[:, :1], numbers >= upto[:, -1:]
    reached = np.where(past, width, 0)
    some = np.flatnonzero(~(before | past))
    number, first, values = numbers.ravel()[some], some // draws * width, upto.ravel()
    low = np.zeros_like(some)  # index of a value that is reached
    for bit in reversed(range((width - 1).bit_length())):
        higher = np.minimum(low + (1 << bit), width - 1)  # the last one is not
        low = np.where(values[first + higher] <= number, higher, low)
    reached.ravel()[some] = low + 1
    return reached


def keep_entries(soft: SoftIds, tokens: NDArray[np.bool_]) -> SoftIds:
    """Soft ids in which all other tokens are plain. tokens: [N] bool, those that keep their entries."""
    counts = np.diff(soft.offsets)
    keep = np.repeat(tokens, counts)
    return SoftIds(
        offsets=np.concatenate([[0], np.cumsum(counts * tokens)]),
        ids=soft.ids[keep],
        logprobs=soft.logprobs[keep],
        log_tail=np.where(tokens, soft.log_tail, -np.inf),
        original_logprob=np.where(tokens, soft.original_logprob, 0),
        log_partition=soft.log_partition * tokens[:, None],
    )


def _float32(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """The values as float32, in new memory. torch, where it is loaded, widens float16 four times as fast as numpy; its import takes 2 s."""
    torch = sys.modules.get("torch")
    if torch is None:
        return values.astype(np.float32)
    wide: NDArray[np.float32] = torch.from_numpy(np.require(values, requirements=["C", "W"])).float().numpy()
    return wide


def _rectangle(values: NDArray[Any], counts: NDArray[np.int64], fill: float) -> NDArray[Any]:
    """The entries of S tokens as [S, K], padded with `fill`."""
    width = int(counts.max())
    if len(values) == len(counts) * width:
        return values.reshape(-1, width)
    out = np.full((len(counts), width), fill, values.dtype)
    out[np.arange(width) < counts[:, None]] = values
    return out
