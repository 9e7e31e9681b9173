"""What p is, for each token: the stored entries after k, mass, temperature and tail; and draws from it.

Randomness is counter-based: a number in [0, 1) is a hash of what it is for (seed, epoch, row, window, token, draw). There is no
generator with a state, so it is the same in whatever batch, on whatever rank, after whatever resume.
Legend: N tokens, S tokens that have entries, K most entries of a token, E entries in all, M draws.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.temperature import log_partition


@dataclass(frozen=True, kw_only=True)
class CutSoftIds:
    """Soft ids after k, mass, temperature and tail: what p is, for N tokens."""

    counts: NDArray[np.int64]  # [N] entries left; 0 for a plain token
    ids: NDArray[np.unsignedinteger]  # [E]
    probs: NDArray[np.float32]  # [E] p at the temperature
    tail: NDArray[np.float32]  # [N] mass that is left for the tail policy; 0 for `renormalize`


def cut(soft: SoftIds, how: Smoothing, temperatures: tuple[float, ...] = (), vocab_size: int | None = None) -> CutSoftIds:
    """Keep the entries that k and mass allow, at the temperature asked for. Entries are most probable first, so a cut is a prefix.

    Probabilities and tail of a token with entries sum to 1, but for float32 rounding. temperatures: those of the columns of
    log_partition. Another one is interpolated, for which vocab_size is needed: UsageError without. `renormalize` needs neither.
    """
    stored = np.diff(soft.offsets)
    tokens = np.flatnonzero(stored)
    counts, tail = np.zeros_like(stored), np.zeros(len(stored), np.float32)
    if not len(tokens):
        return CutSoftIds(counts=counts, ids=soft.ids[:0], probs=np.zeros(0, np.float32), tail=tail)
    left = stored[tokens]
    ids, logprobs = _rectangle(soft.ids, left, 0), _rectangle(_float32(soft.logprobs), left, -np.inf)
    if how.topk is not None:
        ids, logprobs, left = ids[:, : how.topk], logprobs[:, : how.topk], np.minimum(left, how.topk)
    if how.mass < 1.0:
        reached = np.cumsum(np.exp(logprobs[:, :-1], dtype=np.float64), axis=1)
        left = np.minimum(left, 1 + (reached < how.mass).sum(1))
    if how.tail == "renormalize":  # the partition cancels out
        if how.temperature != 1.0:
            logprobs = (logprobs - logprobs[:, :1]) / np.float32(how.temperature)
    elif how.temperature != 1.0:
        logprobs = logprobs / np.float32(how.temperature) - log_partition(soft, how, temperatures, vocab_size)[tokens, None]
    keep = None if left.min() == ids.shape[1] else np.arange(ids.shape[1]) < left[:, None]
    probs = np.exp(logprobs)
    if keep is not None:
        probs *= keep
    mass = probs.sum(1)
    # rounding to float16 may push the stored mass a little over 1
    scale = mass if how.tail == "renormalize" else np.maximum(mass, 1.0)
    probs /= scale[:, None]
    tail[tokens] = 1.0 - mass / scale
    counts[tokens] = left
    flat_ids, flat_probs = (ids.ravel(), probs.ravel()) if keep is None else (ids[keep], probs[keep])
    return CutSoftIds(counts=counts, ids=flat_ids, probs=flat_probs, tail=tail)


def draw(entries: CutSoftIds, uniforms: NDArray[np.float64]) -> CutSoftIds:
    """Ids drawn from each token's p, each with weight 1 / M, in place of p: its expectation is p, tail included.

    uniforms: [N, M] in [0, 1). A draw from the tail leaves no entry, its weight is in `tail`.
    """
    draws = uniforms.shape[1]
    tokens = np.flatnonzero(entries.counts)
    counts, tail = np.zeros_like(entries.counts), np.zeros_like(entries.tail)
    if not len(tokens):
        return entries
    ids, probs = (_rectangle(values, entries.counts[tokens], 0) for values in (entries.ids, entries.probs))
    place = _reached(np.cumsum(probs, axis=1, dtype=np.float64), uniforms[tokens])
    last = entries.counts[tokens] - 1
    # without a tail, only rounding can lead past the last entry
    place = np.minimum(place, np.where(entries.tail[tokens] == 0, last, ids.shape[1])[:, None])
    is_entry = place <= last[:, None]
    place += np.arange(0, ids.size, ids.shape[1])[:, None]
    found = ids.ravel()[place[is_entry]]
    counts[tokens] = is_entry.sum(1)
    tail[tokens] = 1 - counts[tokens] / np.float32(draws)
    return CutSoftIds(counts=counts, ids=found, probs=np.full(len(found), 1 / draws, np.float32), tail=tail)


def _reached(upto: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of a token's values, rising along [S, K], each of its numbers [S, M] has reached: [S, M].

    Most draws are of the first entry or of the tail; the place of the others is bisected, all at once.
    """
    (_, width), draws = upto.shape, numbers.shape[1]
    before, past = numbers < upto[:, :1], numbers >= upto[:, -1:]
    reached = np.where(past, width, 0)
    some = np.flatnonzero(~(before | past))
    number, first, values = numbers.ravel()[some], some // draws * width, upto.ravel()
    low = np.zeros_like(some)  # a value that is reached
    for bit in reversed(range((width - 1).bit_length())):
        higher = np.minimum(low + (1 << bit), width - 1)  # the last one is not
        low = np.where(values[first + higher] <= number, higher, low)
    reached.ravel()[some] = low + 1
    return reached


def only(soft: SoftIds, tokens: NDArray[np.bool_]) -> SoftIds:
    """The same with the entries of all other tokens taken out. tokens: [N]."""
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
    """The values as float32, in new memory. Torch widens float16 ten times as fast as numpy does."""
    wide: NDArray[np.float32] = torch.from_numpy(np.require(values, requirements=["C", "W"])).float().numpy()
    return wide


def _rectangle(values: NDArray[Any], counts: NDArray[np.int64], fill: float) -> NDArray[Any]:
    """The entries of S tokens as rows of [S, K], shorter ones filled up."""
    width = int(counts.max())
    if len(values) == len(counts) * width:
        return values.reshape(-1, width)
    out = np.full((len(counts), width), fill, values.dtype)
    out[np.arange(width) < counts[:, None]] = values
    return out
