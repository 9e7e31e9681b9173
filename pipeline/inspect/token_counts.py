"""Counts over blocks of rows: entropies, lengths, and the words that a teacher smooths most.

Legend: N tokens, E entries, V vocabulary, W chosen words.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.token_text import TokenNames
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.statistics import UnitStats

ENTROPY_BIN = 0.1  # bits, of the histogram
FINE_PER_BIN = 100
FINE_BIN = ENTROPY_BIN / FINE_PER_BIN  # bits, of the quantiles
P_BIN = 0.01  # of p(original), as manifests have it
LENGTH_BARS = 40  # at most, of the histogram of lengths
REPLACEMENTS = 5  # told of a word
LEAST = 5  # times that a word has to occur to be told, in a small dataset
ONE_IN = 20_000  # smoothed tokens, in a large one


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """counts[i] numbers lie from edges[i] up to edges[i + 1]."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SmoothedWord:
    """A word, how sure the teacher is of it where it stands, and what it finds instead."""

    word: str
    count: int
    p_original: float  # mean over its occurrences
    replacements: tuple[tuple[str, float], ...]  # most probable first: mean probability over all its occurrences


def told_p(quantile: float) -> str:
    """A quantile of p(original), which is the middle of its bin: in the first and the last bin no more than that is known."""
    return f"< {P_BIN}" if quantile < P_BIN else f"> {1 - P_BIN}" if quantile > 1 - P_BIN else f"{quantile:.2f}"


class Tally:
    """Sums over blocks; first `add` all, then `choose` the words, then `add_replacements` of all again."""

    def __init__(self, names: TokenNames, *, vocab_size: int, topk: int) -> None:
        self._names, self._topk, self._vocab_size = names, topk, vocab_size
        self._before, self._after, self._lettered = names.word_flags(vocab_size)
        self.rows = 0
        self.stats = UnitStats()
        # the tail as one entry: no more than topk + 1 of them
        bars = math.ceil(math.log2(topk + 1) / ENTROPY_BIN) + 1
        self._entropy_bins = np.zeros(bars * FINE_PER_BIN, np.int64)
        self._entropy, self._spread = 0.0, 0.0
        self._lengths = np.zeros(1, np.int64)
        self._seen = np.zeros(vocab_size, np.int64)
        self._p = np.zeros(vocab_size)
        self.at_least = LEAST
        self._chosen: NDArray[np.int64] = np.zeros(0, np.int64)
        self._instead = np.zeros((0, 0))

    def add(self, block: TokenBlock) -> None:
        self.rows += len(block)
        self.stats += UnitStats.of(block.soft, topk=self._topk)
        lengths = np.diff(block.row_offsets)
        if len(lengths):
            counts = np.bincount(lengths, minlength=len(self._lengths))
            counts[: len(self._lengths)] += self._lengths
            self._lengths = counts
        self._add_entropy(block)
        whole = self._whole_words(block)
        ids = block.input_ids[whole]
        self._seen += np.bincount(ids, minlength=self._vocab_size)
        self._p += np.bincount(ids, np.exp(block.soft.original_logprob[whole].astype(np.float64)), minlength=self._vocab_size)

    def _add_entropy(self, block: TokenBlock) -> None:
        counts = np.diff(block.soft.offsets)
        smoothed = counts > 0
        logprobs = block.soft.logprobs.astype(np.float64)
        token = np.repeat(np.arange(len(counts)), counts)
        entries = np.bincount(token, -np.exp(logprobs) * logprobs, minlength=len(counts))[smoothed]
        log_tail = block.soft.log_tail.astype(np.float64)[smoothed]
        tail = np.exp(log_tail)
        entropy = (entries - np.where(tail > 0, tail * np.where(np.isfinite(log_tail), log_tail, 0.0), 0.0)) / math.log(2)
        others = np.maximum(self._vocab_size - counts[smoothed], 1)
        self._entropy += float(entropy.sum())
        self._spread += float((tail * np.log2(others)).sum())
        places = np.minimum((entropy / FINE_BIN).astype(np.int64), len(self._entropy_bins) - 1)
        self._entropy_bins += np.bincount(np.maximum(places, 0), minlength=len(self._entropy_bins))

    def _whole_words(self, block: TokenBlock) -> NDArray[np.bool_]:
        """[N] the smoothed tokens that are a word of their own, with a letter or digit: no piece of a longer one."""
        ids = block.input_ids
        if not len(ids):
            return np.zeros(0, bool)
        plain = np.diff(block.soft.offsets) == 0
        starts = np.zeros(len(ids) + 1, bool)
        starts[block.row_offsets] = True
        begins = self._before[ids] | starts[:-1]
        begins[1:] |= self._after[ids[:-1]] | plain[:-1]
        goes_on = ~starts[1:]
        goes_on[:-1] &= ~begins[1:] & self._lettered[ids[1:]]
        whole: NDArray[np.bool_] = ~plain & begins & ~goes_on & self._lettered[ids]
        return whole

    def choose(self, words: int) -> None:
        """Choose the words with the lowest mean p(original) among those that occur often enough."""
        self.at_least = max(LEAST, self.stats.smoothed // ONE_IN)
        often = np.flatnonzero(self._seen >= self.at_least)
        mean = self._p[often] / self._seen[often]
        self._chosen = often[np.lexsort((often, mean))[:words]]
        self._instead = np.zeros((len(self._chosen), self._vocab_size))

    def add_replacements(self, block: TokenBlock) -> None:
        if not len(self._chosen):
            return
        place = np.full(self._vocab_size, -1)
        place[self._chosen] = np.arange(len(self._chosen))
        of_token = np.where(self._whole_words(block), place[block.input_ids], -1)
        word = np.repeat(of_token, np.diff(block.soft.offsets))
        own = np.repeat(block.input_ids, np.diff(block.soft.offsets))
        counted = np.flatnonzero((word >= 0) & (block.soft.ids != own))
        np.add.at(self._instead, (word[counted], block.soft.ids[counted]), np.exp(block.soft.logprobs[counted].astype(np.float64)))

    def words(self) -> tuple[SmoothedWord, ...]:
        """The chosen words, the most smoothed first."""
        found = []
        for token, instead in zip(self._chosen.tolist(), self._instead, strict=True):
            count = int(self._seen[token])
            best = np.argsort(-instead, kind="stable")[:REPLACEMENTS]
            replacements = tuple((self._names.name(int(i)), float(instead[i] / count)) for i in best if instead[i] > 0)
            p = float(self._p[token] / count)
            found.append(SmoothedWord(word=self._names.name(token), count=count, p_original=p, replacements=replacements))
        return tuple(found)

    def entropy(self, quantiles: tuple[float, ...]) -> dict[str, float]:
        """Bits. mean: with the tail as one entry, so no token has less; mean_most: spread evenly over all others, so none has more."""
        tokens = max(self.stats.smoothed, 1)
        upto = np.cumsum(self._entropy_bins)
        at = {f"q{round(100 * q):02d}": float(np.searchsorted(upto, q * upto[-1]) + 0.5) * FINE_BIN for q in quantiles}
        return {"mean": self._entropy / tokens, "mean_most": (self._entropy + self._spread) / tokens, **at}

    def entropy_histogram(self) -> Histogram:
        counts = self._entropy_bins.reshape(-1, FINE_PER_BIN).sum(1)
        return Histogram(edges=tuple(round(n * ENTROPY_BIN, 9) for n in range(len(counts) + 1)), counts=tuple(counts.tolist()))

    def length(self, quantiles: tuple[float, ...]) -> dict[str, float]:
        """Tokens of a row: mean, least, most, quantiles."""
        upto = np.cumsum(self._lengths)
        if not upto[-1]:
            return {}
        there = np.flatnonzero(self._lengths)
        mean = float((self._lengths * np.arange(len(self._lengths))).sum() / upto[-1])
        at = {f"q{round(100 * q):02d}": int(np.searchsorted(upto, q * upto[-1])) for q in quantiles}
        return {"mean": mean, "min": int(there[0]), "max": int(there[-1]), **at}

    def length_histogram(self) -> Histogram:
        width = max(1, math.ceil(len(self._lengths) / LENGTH_BARS))
        edges = list(range(0, len(self._lengths) + width, width))
        counts = [int(self._lengths[low:high].sum()) for low, high in pairwise(edges)]
        return Histogram(edges=tuple(map(float, edges)), counts=tuple(counts))
