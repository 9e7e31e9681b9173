"""Counts over blocks of rows: entropies, lengths, and the words that a teacher smooths most.

Legend: N tokens, E entries, V vocabulary, W chosen words.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.token_text import TokenNames
from textsmooth.schemas.config import GenerationConfig
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.statistics import UnitStats

ENTROPY_BIN = 0.1  # bits, of the histogram
FINE_PER_BIN = 100
FINE_BIN = ENTROPY_BIN / FINE_PER_BIN  # bits, of the quantiles
P_BIN = 0.01  # of p(original), as manifests have it
LENGTH_BARS = 40  # at most, of the histogram of lengths
REPLACEMENTS = 5  # kept per word
LEAST = 5  # occurrences that a word needs to be listed, in a small dataset
ONE_IN = 20_000  # smoothed tokens per occurrence, in a large one


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """counts[i] values lie in edges[i] <= value < edges[i + 1]."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def coarse(self, times: int) -> "Histogram":
        """The histogram with every `times` neighboring bins merged into one."""
        counts = [sum(self.counts[n : n + times]) for n in range(0, len(self.counts), times)]
        edges = [self.edges[min(n * times, len(self.edges) - 1)] for n in range(len(counts) + 1)]
        return Histogram(edges=tuple(edges), counts=tuple(counts))

    def without_empty_end(self) -> "Histogram":
        """The histogram without the empty bins after the last value; one bin is always left."""
        used = max((n + 1 for n, count in enumerate(self.counts) if count), default=1)
        return Histogram(edges=self.edges[: used + 1], counts=self.counts[:used])


@dataclass(frozen=True, kw_only=True)
class SmoothedWord:
    """A word, its mean probability where it occurs, and its most probable replacements."""

    word: str
    count: int
    p_original: float  # mean over its occurrences
    replacements: tuple[tuple[str, float], ...]  # most probable first: mean probability over all its occurrences


def quantile_text(quantile: float) -> str:
    """A quantile of p(original) as text. It is the middle of its bin, so in the first and last bin only a bound is known."""
    return f"< {P_BIN}" if quantile < P_BIN else f"> {1 - P_BIN}" if quantile > 1 - P_BIN else f"{quantile:.2f}"


def _surprise(logprobs: NDArray[np.floating]) -> NDArray[np.float64]:
    """-p log p; 0 where p is 0."""
    logs = np.where(np.isneginf(logprobs), 0.0, logprobs.astype(np.float64))
    return np.where(np.isneginf(logprobs), 0.0, -np.exp(logs) * logs)


class TokenCounts:
    """Sums over blocks: first `add` every block, then `choose` the words, then `add_replacements` of every block again."""

    def __init__(self, names: TokenNames, *, vocab_size: int, config: GenerationConfig) -> None:
        self._names, self._config, self._vocab_size = names, config, vocab_size
        self._before, self._after, self._lettered = names.word_flags(vocab_size)
        self.rows = 0
        self.stats = UnitStats()
        # the tail as one entry: no more than K + 1 of them
        bars = math.ceil(math.log2(config.topk + 1) / ENTROPY_BIN) + 1
        self._entropy_bins = np.zeros(bars * FINE_PER_BIN, np.int64)
        self._entropy, self._spread = 0.0, 0.0
        self._lengths = np.zeros(1, np.int64)
        self._seen = np.zeros(vocab_size, np.int64)
        self._p = np.zeros(vocab_size)
        self.at_least = LEAST
        self._chosen: NDArray[np.int64] = np.zeros(0, np.int64)
        self._replacement_mass = np.zeros((0, 0))

    def add(self, block: TokenBlock) -> None:
        self.rows += len(block)
        config = self._config
        self.stats += UnitStats.of(block.soft, topk=config.topk, mass=config.mass, temperatures=config.extra_temperatures)
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
        token = np.repeat(np.arange(len(counts)), counts)
        entries = np.bincount(token, _surprise(block.soft.logprobs), minlength=len(counts))[smoothed]
        log_tail = block.soft.log_tail[smoothed]
        tail = np.exp(log_tail.astype(np.float64))
        entropy = (entries + _surprise(log_tail)) / math.log(2)
        others = np.maximum(self._vocab_size - counts[smoothed], 1)
        self._entropy += float(entropy.sum())
        self._spread += float((tail * np.log2(others)).sum())
        bins = np.minimum((entropy / FINE_BIN).astype(np.int64), len(self._entropy_bins) - 1)
        self._entropy_bins += np.bincount(np.maximum(bins, 0), minlength=len(self._entropy_bins))

    def _whole_words(self, block: TokenBlock) -> NDArray[np.bool_]:
        """[N] bool: smoothed tokens that are a whole word with a letter or digit, not a piece of a longer word."""
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
        self._replacement_mass = np.zeros((len(self._chosen), self._vocab_size))

    def add_replacements(self, block: TokenBlock) -> None:
        if not len(self._chosen):
            return
        number = np.full(self._vocab_size, -1)
        number[self._chosen] = np.arange(len(self._chosen))
        of_token = np.where(self._whole_words(block), number[block.input_ids], -1)
        word = np.repeat(of_token, np.diff(block.soft.offsets))
        own = np.repeat(block.input_ids, np.diff(block.soft.offsets))
        counted = np.flatnonzero((word >= 0) & (block.soft.ids != own))
        np.add.at(self._replacement_mass, (word[counted], block.soft.ids[counted]), np.exp(block.soft.logprobs[counted].astype(np.float64)))

    def words(self) -> tuple[SmoothedWord, ...]:
        """The chosen words, the most smoothed first."""
        words = []
        for token, mass in zip(self._chosen.tolist(), self._replacement_mass, strict=True):
            count = int(self._seen[token])
            best = np.argsort(-mass, kind="stable")[:REPLACEMENTS]
            replacements = tuple((self._names.name(int(i)), float(mass[i] / count)) for i in best if mass[i] > 0)
            p = float(self._p[token] / count)
            words.append(SmoothedWord(word=self._names.name(token), count=count, p_original=p, replacements=replacements))
        return tuple(words)

    def entropy(self, quantiles: tuple[float, ...]) -> dict[str, float]:
        """In bits. mean: the tail counts as one entry, a lower bound; mean_most: it is spread over all other tokens, an upper bound."""
        tokens = max(self.stats.smoothed, 1)
        upto = np.cumsum(self._entropy_bins)
        at_quantiles = {f"q{round(100 * q):02d}": float(np.searchsorted(upto, q * upto[-1]) + 0.5) * FINE_BIN for q in quantiles}
        return {"mean": self._entropy / tokens, "mean_most": (self._entropy + self._spread) / tokens, **at_quantiles}

    def entropy_histogram(self) -> Histogram:
        counts = self._entropy_bins.reshape(-1, FINE_PER_BIN).sum(1)
        return Histogram(edges=tuple(round(n * ENTROPY_BIN, 9) for n in range(len(counts) + 1)), counts=tuple(counts.tolist()))

    def length(self, quantiles: tuple[float, ...]) -> dict[str, float]:
        """Tokens per row: mean, minimum, maximum, quantiles."""
        upto = np.cumsum(self._lengths)
        if not upto[-1]:
            return {}
        used = np.flatnonzero(self._lengths)
        mean = float((self._lengths * np.arange(len(self._lengths))).sum() / upto[-1])
        at_quantiles = {f"q{round(100 * q):02d}": int(np.searchsorted(upto, q * upto[-1])) for q in quantiles}
        return {"mean": mean, "min": int(used[0]), "max": int(used[-1]), **at_quantiles}

    def length_histogram(self) -> Histogram:
        width = max(1, math.ceil(len(self._lengths) / LENGTH_BARS))
        edges = list(range(0, len(self._lengths) + width, width))
        counts = [int(self._lengths[low:high].sum()) for low, high in pairwise(edges)]
        return Histogram(edges=tuple(map(float, edges)), counts=tuple(counts))
