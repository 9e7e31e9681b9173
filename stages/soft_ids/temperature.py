"""The log-partition log sum_v p_v^(1/T) at any temperature T: stored ones exactly, others between bounds.

The entries of a token are known one by one; of the others, the tail, only F(beta) = log sum p_v^beta at some beta = 1/T:

    beta = 0        log of how many they are        beta = 1        log_tail        stored T        log_partition less the entries

F is convex (a log-sum-exp of linear functions) and its slope is at most log p of the most probable of them. So between two known
points F lies below their chord, beyond them above its extension; the tail's share of the whole is taken half way between the bounds.
Legend: N tokens, S tokens that have entries, K most entries of a token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds

# Of the tail's share, mean over tokens. benchmarks/tails.py: between stored temperatures the bound is below 0.03 (real error 0.005),
# from 1 alone to hotter ones it is 0.12 and more (real error 0.05 and more).
MOST_ERROR = 0.05
_LEAST_TAIL = -87.0  # log of the mass below which a stored log_tail is -inf
_SLACK = 1e-5  # of logs that were computed in float32 over a whole vocabulary

Float64 = NDArray[np.float64]


def log_partition(soft: SoftIds, how: Smoothing, stored: tuple[float, ...], vocab_size: int | None) -> NDArray[np.float32]:
    """[N] log-partition at the temperature: from its column, or interpolated. UsageError if that needs a vocab_size."""
    if how.temperature == 1.0:
        return np.zeros(len(soft), np.float32)
    column = how.stored_column(stored)
    if column is not None:
        return soft.log_partition[:, column]
    if vocab_size is None:
        raise how.not_stored(stored)
    return interpolate(soft, how.temperature, stored, vocab_size)[0]


def interpolate(
    soft: SoftIds, temperature: float, stored: tuple[float, ...], vocab_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The log-partition at a temperature that need not be stored, [N] float32, and how far the tail's share may be off, [N].

    The second is a bound on the total variation between the interpolated and the true distribution, the tail counted as one
    entry: rounding of the stored logarithms is allowed for, but not what it does to single entries (docs/format.md).
    stored: temperatures of the columns of log_partition. A token without entries is certain: 0 and 0.
    """
    counts = np.diff(soft.offsets)
    tokens = np.flatnonzero(counts)
    partition, error = np.zeros(len(counts), np.float32), np.zeros(len(counts))
    if len(tokens):
        bounds = _Bounds.of(soft, tokens, counts[tokens])
        log_entries, lowest, highest = bounds.tail_share(1 / temperature, bounds.anchors(soft, tokens, stored, vocab_size))
        lowest, highest = (np.where(counts[tokens] < vocab_size, share, 0.0) for share in (lowest, highest))
        partition[tokens] = log_entries - np.log1p(-(lowest + highest) / 2)
        error[tokens] = (highest - lowest) / 2
    return partition, error


def interpolation_error(soft: SoftIds, temperature: float, stored: tuple[float, ...], vocab_size: int) -> tuple[float, float]:
    """Mean and largest bound of `interpolate` over the tokens that have entries; 0, 0 if none has."""
    error = interpolate(soft, temperature, stored, vocab_size)[1]
    error = error[np.diff(soft.offsets) > 0]
    return (float(error.mean()), float(error.max())) if len(error) else (0.0, 0.0)


def temperature_note(
    how: Smoothing,
    stored: tuple[float, ...],
    vocab_size: int,
    sample: Callable[[], SoftIds | None],
    *,
    instead: str = ", or --tail renormalize, which needs none",
) -> str | None:
    """What to tell about a temperature that is not stored, in one line; None where p is exact: stored, or tail `renormalize`.

    sample: soft ids of some rows, read only where the bound on the error is needed. instead: what the UsageError suggests, which is raised
    where the mean bound is above MOST_ERROR.
    """
    if how.temperature == 1.0 or how.tail == "renormalize" or how.stored_column(stored) is not None:
        return None
    if (soft := sample()) is None:
        return None
    mean, most = interpolation_error(soft, how.temperature, stored, vocab_size)
    if mean > MOST_ERROR:
        raise how.not_stored(
            stored,
            f", and what is known leaves probabilities uncertain by {mean:.3f} on average (at most {MOST_ERROR:g} is allowed)",
            instead,
        )
    known = ", ".join(f"{t:g}" for t in sorted({1.0, *stored}))
    return (
        f"temperature {how.temperature:g} is not stored (it has {known}): interpolated, "
        f"probabilities off by at most {mean:.2g} on average (worst {most:.2g})"
    )


@dataclass(frozen=True, kw_only=True)
class _Anchor:
    """A point at which F is known, but for rounding."""

    beta: float
    low: Float64  # [S]
    high: Float64  # [S]


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    logprobs: Float64  # [S, K] -inf where a token has fewer
    rounded: Float64  # [S, K] how far each may be off
    steepest: Float64  # [S] no slope of F is above
    tail: tuple[Float64, Float64]  # F(1), bounds of it: [S]

    @classmethod
    def of(cls, soft: SoftIds, tokens: NDArray[np.int64], counts: NDArray[np.int64]) -> "_Bounds":
        keep = np.arange(counts.max()) < counts[:, None]
        logprobs, rounded = np.full(keep.shape, -np.inf), np.zeros(keep.shape)
        logprobs[keep] = soft.logprobs
        rounded[keep] = _rounding(soft.logprobs)
        off = _rounding(soft.log_tail[tokens]) + _SLACK
        log_tail = soft.log_tail[tokens].astype(np.float64)
        low, high = log_tail - off, np.where(np.isneginf(log_tail), _LEAST_TAIL, log_tail + off)
        last = soft.offsets[tokens] + counts - 1
        least = soft.logprobs[last].astype(np.float64) + _rounding(soft.logprobs[last])
        return cls(logprobs=logprobs, rounded=rounded, steepest=np.minimum(np.minimum(least, high), 0.0), tail=(low, high))

    def anchors(self, soft: SoftIds, tokens: NDArray[np.int64], stored: tuple[float, ...], vocab_size: int) -> list[_Anchor]:
        others = np.log(np.maximum(vocab_size - np.isfinite(self.logprobs).sum(1), 1))
        found = [_Anchor(beta=0.0, low=others, high=others), _Anchor(beta=1.0, low=self.tail[0], high=self.tail[1])]
        for column, temperature in enumerate(stored):
            whole = soft.log_partition[tokens, column].astype(np.float64)
            off = _SLACK + np.abs(whole) * np.finfo(np.float32).eps
            peak = self.logprobs[:, 0] / temperature
            entries, entries_off = self._entries(1 / temperature)
            with np.errstate(divide="ignore", invalid="ignore"):
                low = peak + np.log(np.maximum(np.exp(whole - off - peak) - entries - entries_off, 0.0))
                rest = np.exp(whole + off - peak) - entries + entries_off
                found.append(_Anchor(beta=1 / temperature, low=low, high=np.where(rest > 0, peak + np.log(rest), np.inf)))
        return found

    def _entries(self, beta: float) -> tuple[Float64, Float64]:
        """The sum of (p_i / p_1)^beta over the entries, and how far it may be off: [S] each."""
        powers = np.exp(beta * (self.logprobs - self.logprobs[:, :1]))
        return powers.sum(1), (powers * np.expm1(beta * self.rounded)).sum(1)

    def tail_share(self, beta: float, anchors: list[_Anchor]) -> tuple[Float64, Float64, Float64]:
        """log of the entries' sum, and the least and the most that the tail can be of the whole: [S] each."""
        with np.errstate(invalid="ignore"):
            low = np.fmax.reduce(list(self._lower(beta, anchors)))
            high = np.fmin.reduce(list(self._upper(beta, anchors)))
        entries, off = self._entries(beta)
        peak = beta * self.logprobs[:, 0]
        with np.errstate(divide="ignore", over="ignore"):
            least = 1 / (1 + np.exp(peak + np.log(entries + off) - low))
            most = 1 / (1 + np.exp(peak + np.log(np.maximum(entries - off, 0.0)) - high))
        return peak + np.log(entries), least, np.maximum(most, least)

    def _upper(self, beta: float, anchors: list[_Anchor]) -> Iterator[Float64]:
        left, right = [a for a in anchors if a.beta <= beta], [a for a in anchors if a.beta > beta]
        for a in left:
            yield a.high + self.steepest * (beta - a.beta)
            for b in right:
                along = (beta - a.beta) / (b.beta - a.beta)
                yield (1 - along) * a.high + along * b.high

    def _lower(self, beta: float, anchors: list[_Anchor]) -> Iterator[Float64]:
        yield np.full(len(self.steepest), -np.inf)
        for near in anchors:
            if near.beta >= beta:
                yield near.low - self.steepest * (near.beta - beta)
            for far in anchors:  # on the same side, further away
                beyond = (beta - near.beta) / (near.beta - far.beta) if near.beta != far.beta else -1.0
                if beyond > 0:
                    yield (1 + beyond) * near.low - beyond * far.high


def _rounding(values: NDArray[np.floating]) -> Float64:
    """How far a stored number may be from the one that was rounded to it."""
    kind = np.finfo(values.dtype)
    size = np.where(np.isfinite(values), np.abs(values.astype(np.float64)), 0.0)
    return size * float(kind.eps) / 2 + float(kind.smallest_subnormal)
