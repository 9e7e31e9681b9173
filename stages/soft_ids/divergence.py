"""How far apart two sets of soft ids of the same tokens are.

Legend: N tokens, E entries, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.soft_ids import SoftIds

LEAST = np.exp(-87.0)  # a tail is stored as nothing below this: docs/format.md


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Of each token that has entries in both: [N'] float64 each, and which tokens these are."""

    tokens: NDArray[np.int64]  # [N'] positions among the N
    kl: NDArray[np.float64]  # nats, of the first from the second
    tv: NDArray[np.float64]  # total variation, 0 .. 1
    same_top: NDArray[np.bool_]  # whether the most probable entry is the same


def divergence(p: SoftIds, q: SoftIds, vocab_size: int) -> Divergence:
    """Kullback-Leibler divergence KL(p || q) and total variation of each token, as far as what is stored tells.

    Entries that both have are compared one by one; everything else of a token, tail included, is one bucket on either side. Merging
    outcomes never adds to either figure, so both are lower bounds of those of the full distributions, and exact where both sides have
    the same ids and the rest agrees. Either side is scaled to a sum of 1 before: rounding to float16 moves it by up to 0.4 %.
    """
    both = np.flatnonzero((np.diff(p.offsets) > 0) & (np.diff(q.offsets) > 0))
    (keys_p, log_p, rest_p), (keys_q, log_q, rest_q) = (_entries(soft, both, vocab_size) for soft in (p, q))
    shared, at_p, at_q = np.intersect1d(keys_p, keys_q, assume_unique=True, return_indices=True)
    token = shared // vocab_size
    log_p, log_q = log_p[at_p], log_q[at_q]
    for_p, for_q = np.exp(log_p), np.exp(log_q)
    rest_p = np.maximum(rest_p - np.bincount(token, for_p, len(both)), 0)
    rest_q = np.maximum(rest_q - np.bincount(token, for_q, len(both)), 0)
    rest = np.where(rest_p > LEAST, rest_p * np.log(np.maximum(rest_p, LEAST) / np.maximum(rest_q, LEAST)), 0)
    # an entry without probability adds nothing; what q has none of counts as LEAST, as in the rest
    difference = np.where(for_p > 0, np.maximum(log_p, np.log(LEAST)) - np.maximum(log_q, np.log(LEAST)), 0)
    kl = np.bincount(token, for_p * difference, len(both)) + rest
    tv = (np.bincount(token, np.abs(for_p - for_q), len(both)) + np.abs(rest_p - rest_q)) / 2
    return Divergence(tokens=both, kl=np.maximum(kl, 0), tv=tv, same_top=p.ids[p.offsets[both]] == q.ids[q.offsets[both]])


def _entries(
    soft: SoftIds, tokens: NDArray[np.int64], vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Of some tokens: a key for each entry (its token's number, its id), its log-probability, scaled; and 1 for each token."""
    counts = np.diff(soft.offsets)[tokens]
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    places = np.arange(counts.sum()) + np.repeat(soft.offsets[tokens] - first, counts)
    number = np.repeat(np.arange(len(tokens)), counts)
    logprobs = soft.logprobs[places].astype(np.float64)
    total = np.bincount(number, np.exp(logprobs), len(tokens)) + np.exp(soft.log_tail[tokens].astype(np.float64))
    return number * vocab_size + soft.ids[places].astype(np.int64), logprobs - np.log(total)[number], np.ones(len(tokens))
