"""Check the numbers of soft ids: entries in order, unique and in the vocabulary, and masses that add up to 1.

Stored log-probabilities are rounded. Every sum is compared within the error bound that the codec states (`Codec.log_error`), never to the
last bit. Legend: N tokens, M tokens with entries, E entries, K entries per token at most, S extra temperatures.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.checks.findings import Describe, FirstPlaces
from textsmooth.stages.checks.rows import MINUS_INFINITY, not_logprob
from textsmooth.stages.soft_ids.codec import find_codec
from textsmooth.stages.soft_ids.statistics import BINS

SIGN = np.uint16(0x8000)  # bits of a float16
EPSILON = 1e-5  # of float32 sums over a vocabulary
EXACT = 1024  # numbers of at most 1 that einsum adds in float32; a matrix product would start BLAS threads beside ours
LEAST_TAIL = -87.0  # log of the least mass that float32 holds: a smaller tail is stored as -inf

_size = np.arange(0x8000, dtype=np.uint16).view(np.float16).astype(np.float64)  # |l|, indexed by the bits of a float16 without its sign
_size[0x7C01:] = np.inf  # NaN, never looked up
PROBABILITY = np.exp(-_size).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Error bounds of a codec's rounding: tables indexed by the bits of a float16 log-probability without its sign."""

    log_error: NDArray[np.float64]  # [32768] bound for the log-probability
    slack: NDArray[np.float32]  # [32768] bound for the probability


@cache
def rounding_of(codec: str) -> Rounding:
    error = np.where(np.isfinite(_size), find_codec(codec).log_error(_size), 0.0)
    return Rounding(log_error=error, slack=(np.exp(-_size) * np.expm1(error)).astype(np.float32))


@dataclass(kw_only=True)
class Sums:
    """Sums over the tokens seen so far."""

    rounding: Rounding
    rows: int = 0  # set at the end
    tokens: int = 0
    smoothed: int = 0
    entries: int = 0
    mass_by_rank: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # [K]
    original: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # sum of p(original), and the error bound of the sum
    below: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((2, BINS), np.int64)
    )  # cumulative counts of tokens by bin of p(original): at least, at most
    variation: float = 0.0  # bounds of the total variation by which a lossy codec rounds, summed over tokens
    skipped: bool = False  # some tokens could not be added

    def add(self, probabilities: NDArray[np.float32], original: NDArray[np.uint16]) -> None:
        """Add M tokens: probabilities of their entries [M, K], and the bits of log p(original) without sign, [M]."""
        grown = np.zeros(max(len(self.mass_by_rank), probabilities.shape[1]))
        grown[: len(self.mass_by_rank)] = self.mass_by_rank
        for first in range(0, len(probabilities), EXACT):
            grown[: probabilities.shape[1]] += np.einsum("mk->k", probabilities[first : first + EXACT])
        self.mass_by_rank = grown
        p, error = PROBABILITY.take(original).astype(np.float64), self.rounding.slack.take(original) + 1e-6
        self.original += (p.sum(), error.sum())
        for counts, values in zip(self.below, (p + error, p - error), strict=True):
            bins = np.clip(values * (BINS / (1.0 + 1e-6)), 0, BINS - 1).astype(np.int64)
            counts += np.cumsum(np.bincount(bins, minlength=BINS))


def check_soft(
    soft: SoftIds, input_ids: NDArray[Any], places: FirstPlaces, *, config: GenerationConfig, vocab_size: int, sums: Sums | None = None
) -> None:
    """Check the tokens of a record batch, add findings to `places`, and add the numbers to `sums`."""
    sums = sums or Sums(rounding=rounding_of(config.codec))
    sizes = np.diff(soft.offsets)
    has = sizes > 0
    some = np.flatnonzero(has)
    bits, tail, original = (np.ascontiguousarray(v).view(np.uint16) for v in (soft.logprobs, soft.log_tail, soft.original_logprob))
    sums.tokens, sums.smoothed, sums.entries = sums.tokens + len(sizes), sums.smoothed + len(some), sums.entries + len(bits)
    _check_plain(soft, ~has, tail, original, places)
    wanted, bound = min(config.topk, vocab_size), "" if config.mass >= 1 else "at most "
    wrong = has & (sizes != wanted) if config.mass >= 1 else sizes > wanted
    places.tokens("count", wrong, lambda n: f"has {sizes[n]} entries, {bound}{wanted} are promised")
    for name, values in (("log_tail", tail), ("original_logprob", original)):
        _check_log(name, values, has & not_logprob(values), places)
    if not len(some):
        return
    sizes = sizes[some]
    entries = _Entries(
        some=some,
        sizes=sizes,
        ids=_dense(soft.ids, sizes, np.arange(-1, -1 - int(sizes.max()), -1)),
        bits=_dense(bits, sizes, MINUS_INFINITY),
        tail=tail[some],
        original=original[some],
        places=places,
        rounding=sums.rounding,
    )
    if not entries.in_order(vocab_size) or not_logprob(entries.tail).any() or not_logprob(entries.original).any():
        sums.skipped = True
        return
    p = PROBABILITY.take(entries.bits & ~SIGN)
    sums.add(p, entries.original & ~SIGN)
    entries.check_mass(p, config.mass, wanted)
    entries.check_original(input_ids[some])
    for column, temperature in enumerate(config.extra_temperatures):
        entries.check_partition(soft.log_partition[some, column], vocab_size - sizes, temperature)


def _check_log(name: str, values: NDArray[np.uint16], bad: NDArray[np.bool_], places: FirstPlaces) -> None:
    places.tokens(f"odd {name}", bad, lambda n: f"has {name} {_number(values[n])}, not a number of at most 0")


def _check_plain(
    soft: SoftIds, plain: NDArray[np.bool_], tail: NDArray[np.uint16], original: NDArray[np.uint16], places: FirstPlaces
) -> None:
    """Check that a token without entries has log_tail -inf, original_logprob 0 and log_partition 0."""
    but = "has no entries, but"
    places.tokens("plain tail", plain & (tail != MINUS_INFINITY), lambda n: f"{but} log_tail {soft.log_tail[n]:g}, not -inf")
    places.tokens("plain original", plain & (original != 0), lambda n: f"{but} original_logprob {soft.original_logprob[n]:g}, not 0")
    if soft.log_partition.shape[1]:
        odd = plain & _in_rows(soft.log_partition != 0)
        places.tokens("plain partition", odd, lambda n: f"{but} log_partition {soft.log_partition[n]}, not 0")


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """The entries of M tokens as rectangles."""

    some: NDArray[np.int64]  # [M] indexes of the tokens in the record batch
    sizes: NDArray[Any]  # [M]
    ids: NDArray[Any]  # [M, K], padded with negative ids
    bits: NDArray[np.uint16]  # [M, K] bits of float16 log-probabilities, padded with -inf
    tail: NDArray[np.uint16]  # [M]
    original: NDArray[np.uint16]  # [M]
    places: FirstPlaces
    rounding: Rounding

    def add(self, kind: str, bad: NDArray[np.bool_], describe: Describe) -> None:
        self.places.tokens(kind, bad, describe, self.some)

    def in_order(self, vocab_size: int) -> bool:
        """Check that ids are in the vocabulary, unique, most probable first. False if log-probabilities are not numbers of at most 0."""
        ids, bits = self.ids, self.bits
        outside: NDArray[np.bool_] = ids >= vocab_size
        if outside.any():
            self.add("vocabulary", _in_rows(outside), lambda m: f"has soft id {int(ids[m].max()):,} in a vocabulary of {vocab_size:,}")
        ordered = np.sort(ids, axis=1)
        twice: NDArray[np.bool_] = ordered[:, 1:] == ordered[:, :-1]
        if twice.any():
            self.add("twice", _in_rows(twice), lambda m: f"has soft id {int(ordered[m, 1:][twice[m]][0]):,} twice")
        odd = not_logprob(bits)
        if odd.any():
            no = "which is no number of at most 0"
            self.add("odd entries", _in_rows(odd), lambda m: f"has log-probability {_number(bits[m][odd[m]][0])}, {no}")
            return False
        keys = bits | SIGN  # they grow as the value falls
        rises: NDArray[np.bool_] = keys[:, 1:] < keys[:, :-1]
        if rises.any():

            def describe(m: int) -> str:
                k = int(rises[m].argmax())
                return f"has entry {k + 1} more probable than entry {k}: {_number(bits[m, k + 1])} after {_number(bits[m, k])}"

            self.add("order", _in_rows(rises), describe)
        return True

    def check_mass(self, p: NDArray[np.float32], mass: float, wanted: int) -> None:
        """Check that entries and tail add up to 1, and that no fewer entries reach the configured mass."""
        inside, slack = np.einsum("mk->m", p), self.rounding.slack
        whole = inside + PROBABILITY.take(self.tail & ~SIGN)
        doubtful = np.flatnonzero(np.abs(whole - 1) > EPSILON)
        bound = np.full(len(p), EPSILON)
        bound[doubtful] += slack.take(self.bits[doubtful] & ~SIGN).sum(1) + slack.take(self.tail[doubtful] & ~SIGN)
        self.add(
            "mass",
            np.abs(whole - 1) > bound,
            lambda m: f"has entries and tail of {whole[m]:.6f} in all; 1, within {bound[m]:.6f} for rounding, is needed",
        )
        if mass < 1:
            bound = slack.take(self.bits & ~SIGN).sum(1) + EPSILON
            short = (self.sizes < wanted) & (inside + bound < mass)
            self.add("short", short, lambda m: f"has {self.sizes[m]} entries, which are {inside[m]:.4f}: mass {mass:g} is promised")
            before = inside - p[np.arange(len(p)), self.sizes - 1]
            self.add("long", before - bound >= mass, lambda m: f"has {self.sizes[m]} entries, fewer reach the mass of {mass:g}")

    def check_original(self, input_ids: NDArray[Any]) -> None:
        """Check original_logprob: equal to the input token's entry, or else at most the last entry and the tail."""
        rows, widest = np.arange(len(self.ids)), self.ids.shape[1]
        entries = np.flatnonzero(self.ids == input_ids[:, None])  # of the input tokens, in the flat [M, K]
        among = np.zeros(len(rows), np.bool_)
        among[entries // widest] = True
        own, of_entry, last = self.original, self.original.copy(), self.bits[rows, self.sizes - 1]
        of_entry[entries // widest] = self.bits.reshape(-1)[entries]
        differs = among & (own | SIGN != of_entry | SIGN)
        self.add("original", differs, lambda m: f"has original_logprob {_number(own[m])}, and {_number(of_entry[m])} for the same id")
        above = ~among & (own | SIGN < last | SIGN)
        no = "though it is not among the entries"
        self.add("above", above, lambda m: f"has original_logprob {_number(own[m])} above the last entry's {_number(last[m])}, {no}")
        p, rest, slack = own & ~SIGN, self.tail & ~SIGN, self.rounding.slack
        more = ~among & (PROBABILITY.take(p) > PROBABILITY.take(rest) + slack.take(p) + slack.take(rest) + EPSILON)
        self.add("tail", more, lambda m: f"has original_logprob {_number(own[m])} above log_tail {_number(self.tail[m])}, {no}")

    def check_partition(self, values: NDArray[np.float32], outside: NDArray[Any], temperature: float) -> None:
        """Check [M] log-partitions at a temperature. outside: [M] number of ids that are not among the entries."""
        low, high = partition_bounds(self.bits.view(np.float16), self.tail.view(np.float16), outside, temperature, self.rounding)
        name = f"log_partition at temperature {temperature:g}"
        self.add(
            name,
            ~((values >= low) & (values <= high)),  # NaN is neither
            lambda m: f"has {name} of {values[m]:.5g}, entries and tail allow {low[m]:.5g} to {high[m]:.5g}",
        )


def partition_bounds(
    logprobs: NDArray[np.float16], log_tail: NDArray[np.float16], outside: NDArray[Any], temperature: float, rounding: Rounding
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of the log-partition at a temperature: [M] float64 each.

    logprobs: [M, K], padded with -inf. outside: [M] number of ids that are not among the entries: the tail may be spread evenly, or
    belong to one id.
    """
    power = 1.0 / temperature
    spread = (1 - power) * np.log(np.maximum(outside, 1))
    (tail, tail_error), (entry, entry_error) = (
        (values.astype(np.float64), rounding.log_error.take(values.view(np.uint16) & ~SIGN)) for values in (log_tail, logprobs)
    )
    bounds = []
    for sign in (1, -1):  # all rounded numbers at their lowest, then at their highest
        scaled = power * (entry - sign * entry_error)
        peak = scaled[:, :1]
        with np.errstate(invalid="ignore", divide="ignore"):
            entries = peak[:, 0] + np.log(np.exp(scaled - peak).sum(1))
            mass = power * np.where(np.isneginf(tail), -np.inf if sign > 0 else LEAST_TAIL, tail - sign * tail_error)
            rest = mass + (np.minimum(spread, 0) if sign > 0 else np.maximum(spread, 0))
            whole = np.logaddexp(entries, np.where(outside > 0, rest, -np.inf))
        bounds.append(whole - sign * (1e-3 + 1e-5 * np.abs(whole)))
    return bounds[0], bounds[1]


def _in_rows(bad: NDArray[Any]) -> NDArray[np.bool_]:
    """[M, K] -> [M]: whether any in the row is bad."""
    any_bad: NDArray[np.bool_] = np.logical_or.reduce(bad, axis=1)
    return any_bad


def _number(bits: np.uint16) -> str:
    return f"{bits.view(np.float16):g}"


def _dense(values: NDArray[Any], sizes: NDArray[Any], fill: Any) -> NDArray[Any]:
    """Entries of M tokens as [M, K], padded with `fill`; a view if all tokens have K."""
    widest = int(sizes.max())
    if int(sizes.min()) == widest:
        return values.reshape(-1, widest)
    padded = np.broadcast_to(fill, (len(sizes), widest)).copy()
    padded[np.arange(widest) < sizes[:, None]] = values
    return padded
