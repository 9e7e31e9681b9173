"""Whether the numbers of soft ids can be what a teacher gave: in order, unique, in the vocabulary, and their mass what it says.

float16 rounds a log-probability l by at most |l| 2^-11, so every sum is compared within what that can make of it: never "at most 1" to
the last bit. Legend: N tokens, M tokens with entries, E entries, K entries per token at most, S extra temperatures.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.checks.findings import Places, Say
from textsmooth.stages.soft_ids.codec import find_codec
from textsmooth.stages.soft_ids.statistics import BINS

SIGN, MINUS_INFINITY = np.uint16(0x8000), np.uint16(0xFC00)  # bits of a float16
EPSILON = 1e-5  # of float32 sums over a vocabulary
EXACT = 1024  # numbers of at most 1 that einsum adds up in float32; no matrix product, as threads of BLAS get into the way of ours
LEAST_TAIL = -87.0  # log of the least mass that float32 holds: a smaller tail is stored as -inf

_size = np.arange(0x8000, dtype=np.uint16).view(np.float16).astype(np.float64)  # |l| by the bits of a float16 without its sign
_size[0x7C01:] = np.inf  # NaN, of which nothing is looked up
PROBABILITY = np.exp(-_size).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How far what a codec stores may be from what was exact: tables by the bits of a float16 log-probability without its sign."""

    log_error: NDArray[np.float64]  # [32768] of the log-probability
    slack: NDArray[np.float32]  # [32768] of the probability


@cache
def rounding_of(codec: str) -> Rounding:
    error = np.where(np.isfinite(_size), find_codec(codec).log_error(_size), 0.0)
    return Rounding(log_error=error, slack=(np.exp(-_size) * np.expm1(error)).astype(np.float32))


@dataclass(kw_only=True)
class Sums:
    """What the tokens seen so far add up to."""

    rounding: Rounding
    rows: int = 0  # once they were all seen
    tokens: int = 0
    smoothed: int = 0
    entries: int = 0
    mass_by_rank: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # [K]
    original: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # sum, and how far rounding may have moved it
    below: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, BINS), np.int64))  # tokens up to a bin: surely, possibly
    skipped: bool = False  # some tokens could not be added up

    def add(self, probabilities: NDArray[np.float32], original: NDArray[np.uint16]) -> None:
        """Of M tokens: [M, K], and the bits of log p(original) without sign, [M]."""
        grown = np.zeros(max(len(self.mass_by_rank), probabilities.shape[1]))
        grown[: len(self.mass_by_rank)] = self.mass_by_rank
        for first in range(0, len(probabilities), EXACT):
            grown[: probabilities.shape[1]] += np.einsum("mk->k", probabilities[first : first + EXACT])
        self.mass_by_rank = grown
        p, moved = PROBABILITY.take(original).astype(np.float64), self.rounding.slack.take(original) + 1e-6
        self.original += (p.sum(), moved.sum())
        for counts, values in zip(self.below, (p + moved, p - moved), strict=True):
            bins = np.clip(values * (BINS / (1.0 + 1e-6)), 0, BINS - 1).astype(np.int64)
            counts += np.cumsum(np.bincount(bins, minlength=BINS))


def check_soft(
    soft: SoftIds, input_ids: NDArray[Any], places: Places, *, config: GenerationConfig, vocab_size: int, sums: Sums | None = None
) -> None:
    """Tell `places` of the tokens of a record batch that are wrong, and add the others up in `sums`."""
    sums = sums or Sums(rounding=rounding_of(config.codec))
    sizes = np.diff(soft.offsets)
    has = sizes > 0
    some = np.flatnonzero(has)
    bits, tail, original = (np.ascontiguousarray(v).view(np.uint16) for v in (soft.logprobs, soft.log_tail, soft.original_logprob))
    sums.tokens, sums.smoothed, sums.entries = sums.tokens + len(sizes), sums.smoothed + len(some), sums.entries + len(bits)
    _check_plain(soft, ~has, tail, original, places)
    wanted, most = min(config.topk, vocab_size), "" if config.mass >= 1 else "at most "
    wrong = has & (sizes != wanted) if config.mass >= 1 else sizes > wanted
    places.tokens("count", wrong, lambda n: f"has {sizes[n]} entries, {most}{wanted} are promised")
    for name, values in (("log_tail", tail), ("original_logprob", original)):
        _tell_odd(name, values, has & _strange(values), places)
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
    if not entries.in_order(vocab_size) or _strange(entries.tail).any() or _strange(entries.original).any():
        sums.skipped = True
        return
    p = PROBABILITY.take(entries.bits & ~SIGN)
    sums.add(p, entries.original & ~SIGN)
    entries.check_mass(p, config.mass, wanted)
    entries.check_original(input_ids[some])
    for column, temperature in enumerate(config.extra_temperatures):
        entries.check_partition(soft.log_partition[some, column], vocab_size - sizes, temperature)


def _tell_odd(name: str, values: NDArray[np.uint16], odd: NDArray[np.bool_], places: Places) -> None:
    places.tokens(f"odd {name}", odd, lambda n: f"has {name} {_number(values[n])}, not a number of at most 0")


def _check_plain(soft: SoftIds, plain: NDArray[np.bool_], tail: NDArray[np.uint16], original: NDArray[np.uint16], places: Places) -> None:
    """A token without entries stands for certainty."""
    but = "has no entries, but"
    places.tokens("plain tail", plain & (tail != MINUS_INFINITY), lambda n: f"{but} log_tail {soft.log_tail[n]:g}, not -inf")
    places.tokens("plain original", plain & (original != 0), lambda n: f"{but} original_logprob {soft.original_logprob[n]:g}, not 0")
    if soft.log_partition.shape[1]:
        odd = plain & _in_rows(soft.log_partition != 0)
        places.tokens("plain partition", odd, lambda n: f"{but} log_partition {soft.log_partition[n]}, not 0")


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """The entries of M tokens, side by side."""

    some: NDArray[np.int64]  # [M] which tokens of the record batch
    sizes: NDArray[Any]  # [M]
    ids: NDArray[Any]  # [M, K], below 0 behind a token's entries
    bits: NDArray[np.uint16]  # [M, K] log-probabilities, -inf behind
    tail: NDArray[np.uint16]  # [M]
    original: NDArray[np.uint16]  # [M]
    places: Places
    rounding: Rounding

    def tell(self, kind: str, bad: NDArray[np.bool_], say: Say) -> None:
        self.places.tokens(kind, bad, say, self.some)

    def in_order(self, vocab_size: int) -> bool:
        """Ids of the vocabulary, each once, most probable first; False if the log-probabilities are none."""
        ids, bits = self.ids, self.bits
        outside: NDArray[np.bool_] = ids >= vocab_size
        if outside.any():
            self.tell("vocabulary", _in_rows(outside), lambda m: f"has soft id {int(ids[m].max()):,} in a vocabulary of {vocab_size:,}")
        ordered = np.sort(ids, axis=1)
        twice: NDArray[np.bool_] = ordered[:, 1:] == ordered[:, :-1]
        if twice.any():
            self.tell("twice", _in_rows(twice), lambda m: f"has soft id {int(ordered[m, 1:][twice[m]][0]):,} twice")
        odd = _strange(bits)
        if odd.any():
            no = "which is no number of at most 0"
            self.tell("odd entries", _in_rows(odd), lambda m: f"has log-probability {_number(bits[m][odd[m]][0])}, {no}")
            return False
        keys = bits | SIGN  # they grow as the value falls
        rises: NDArray[np.bool_] = keys[:, 1:] < keys[:, :-1]
        if rises.any():

            def said(m: int) -> str:
                k = int(rises[m].argmax())
                return f"has entry {k + 1} more probable than entry {k}: {_number(bits[m, k + 1])} after {_number(bits[m, k])}"

            self.tell("order", _in_rows(rises), said)
        return True

    def check_mass(self, p: NDArray[np.float32], mass: float, wanted: int) -> None:
        """Entries and tail are all there is; and no fewer entries reach the mass that was asked for."""
        inside, slack = np.einsum("mk->m", p), self.rounding.slack
        whole = inside + PROBABILITY.take(self.tail & ~SIGN)
        doubtful = np.flatnonzero(np.abs(whole - 1) > EPSILON)
        room = np.full(len(p), EPSILON)
        room[doubtful] += slack.take(self.bits[doubtful] & ~SIGN).sum(1) + slack.take(self.tail[doubtful] & ~SIGN)
        self.tell(
            "mass",
            np.abs(whole - 1) > room,
            lambda m: f"has entries and tail of {whole[m]:.6f} in all; 1, within {room[m]:.6f} for rounding, is needed",
        )
        if mass < 1:
            room = slack.take(self.bits & ~SIGN).sum(1) + EPSILON
            short = (self.sizes < wanted) & (inside + room < mass)
            self.tell("short", short, lambda m: f"has {self.sizes[m]} entries, which are {inside[m]:.4f}: mass {mass:g} is promised")
            before = inside - p[np.arange(len(p)), self.sizes - 1]
            self.tell("long", before - room >= mass, lambda m: f"has {self.sizes[m]} entries, fewer reach the mass of {mass:g}")

    def check_original(self, input_ids: NDArray[Any]) -> None:
        """The input token's own log-probability: its entry's, or, where it has none, at most the last entry's and the tail's."""
        rows, widest = np.arange(len(self.ids)), self.ids.shape[1]
        found = np.flatnonzero(self.ids == input_ids[:, None])
        among = np.zeros(len(rows), np.bool_)
        among[found // widest] = True
        own, there, last = self.original, self.original.copy(), self.bits[rows, self.sizes - 1]
        there[found // widest] = self.bits.reshape(-1)[found]
        differs = among & (own | SIGN != there | SIGN)
        self.tell("original", differs, lambda m: f"has original_logprob {_number(own[m])}, and {_number(there[m])} for the same id")
        above = ~among & (own | SIGN < last | SIGN)
        no = "though it is not among the entries"
        self.tell("above", above, lambda m: f"has original_logprob {_number(own[m])} above the last entry's {_number(last[m])}, {no}")
        p, rest, slack = own & ~SIGN, self.tail & ~SIGN, self.rounding.slack
        more = ~among & (PROBABILITY.take(p) > PROBABILITY.take(rest) + slack.take(p) + slack.take(rest) + EPSILON)
        self.tell("tail", more, lambda m: f"has original_logprob {_number(own[m])} above log_tail {_number(self.tail[m])}, {no}")

    def check_partition(self, values: NDArray[np.float32], outside: NDArray[Any], temperature: float) -> None:
        """values: [M] log-partition at a temperature. outside: [M] ids that are not among the entries."""
        low, high = partition_bounds(self.bits.view(np.float16), self.tail.view(np.float16), outside, temperature, self.rounding)
        name = f"log_partition at temperature {temperature:g}"
        self.tell(
            name,
            ~((values >= low) & (values <= high)),  # NaN is neither
            lambda m: f"has {name} of {values[m]:.5g}, entries and tail allow {low[m]:.5g} to {high[m]:.5g}",
        )


def partition_bounds(
    logprobs: NDArray[np.float16], log_tail: NDArray[np.float16], outside: NDArray[Any], temperature: float, rounding: Rounding
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between what the log-partition at a temperature must lie: [M] each.

    logprobs: [M, K], -inf behind a token's entries. outside: [M] ids that are not among them: their mass may be spread evenly, or lie with
    one of them.
    """
    power = 1.0 / temperature
    spread = (1 - power) * np.log(np.maximum(outside, 1))
    (tail, tail_error), (entry, entry_error) = (
        (values.astype(np.float64), rounding.log_error.take(values.view(np.uint16) & ~SIGN)) for values in (log_tail, logprobs)
    )
    found = []
    for sign in (1, -1):  # all that was rounded taken as low as it may have been, then as high
        scaled = power * (entry - sign * entry_error)
        peak = scaled[:, :1]
        with np.errstate(invalid="ignore", divide="ignore"):
            entries = peak[:, 0] + np.log(np.exp(scaled - peak).sum(1))
            mass = power * np.where(np.isneginf(tail), -np.inf if sign > 0 else LEAST_TAIL, tail - sign * tail_error)
            rest = mass + (np.minimum(spread, 0) if sign > 0 else np.maximum(spread, 0))
            whole = np.logaddexp(entries, np.where(outside > 0, rest, -np.inf))
        found.append(whole - sign * (1e-3 + 1e-5 * np.abs(whole)))
    return found[0], found[1]


def _in_rows(bad: NDArray[Any]) -> NDArray[np.bool_]:
    """[M, K] -> [M]: whether there is one in a row."""
    found: NDArray[np.bool_] = np.logical_or.reduce(bad, axis=1)
    return found


def _strange(bits: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """float16 numbers that are no log-probability: above 0, or NaN."""
    return (bits - np.uint16(1) < np.uint16(0x7FFF)) | (bits > MINUS_INFINITY)


def _number(bits: np.uint16) -> str:
    return f"{bits.view(np.float16):g}"


def _dense(values: NDArray[Any], sizes: NDArray[Any], fill: Any) -> NDArray[Any]:
    """Entries of M tokens as [M, K], filled up behind; a view where all have K."""
    widest = int(sizes.max())
    if int(sizes.min()) == widest:
        return values.reshape(-1, widest)
    found = np.broadcast_to(fill, (len(sizes), widest)).copy()
    found[np.arange(widest) < sizes[:, None]] = values
    return found
