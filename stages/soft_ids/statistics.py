"""What soft ids look like in numbers: summed per unit, added up over a dataset.

Legend: N tokens, E entries, K entries per token at most.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.field_types import Count, Number, convert
from textsmooth.schemas.soft_ids import SoftIds

BINS = 100  # of the histogram of p(original)
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)  # k for which the captured mass is reported
LEAST_CAPTURED = 0.8  # mean mass of the entries at a temperature; below it a student reads mostly the tail
_ROUNDING = 1e-6  # of a sum of float32 probabilities


@dataclass(frozen=True, kw_only=True)
class UnitStats:
    """Sums over the tokens of a unit; `+` adds two."""

    rows: Count = 0
    tokens: Count = 0  # specials included, no padding
    smoothed: Count = 0  # tokens with soft ids
    entries: Count = 0
    padded: Count = 0  # tokens of the forward passes, padding included
    passed: Count = 0  # real tokens of the forward passes, where a row has several; else 0
    truncated_rows: Count = 0
    windows: Count = 0  # rows of the shards, where long rows are cut into windows; else 0
    unknown_tokens: Count = 0  # of the text, that the tokenizer has no token for
    task_truncated_rows: Count = 0  # cut by the task teacher's own tokenizer
    lost_answers: Count = 0  # rows of which no window holds the whole answer
    unlabelled_rows: Count = 0
    mass_by_rank: list[Number] = field(default_factory=list)  # [K] sum over tokens of the r-th entry's probability
    mass_by_temperature: dict[str, list[Number]] = field(default_factory=dict)  # as mass_by_rank, at other stored temperatures
    reached_mass: Count | None = None  # tokens whose entries reach the mass cut-off; None without one
    original: Number = 0.0  # sum of p(original)
    original_bins: list[Count] = field(default_factory=lambda: [0] * BINS)

    @classmethod
    def of(
        cls,
        soft: SoftIds,
        *,
        topk: int,
        mass: float = 1.0,
        temperatures: tuple[float, ...] = (),
        mass_by_rank: NDArray[np.float64] | None = None,
        **counts: int,
    ) -> Self:
        """Of the soft ids of a unit, before rounding; the counts are taken as they are.

        mass: the cut-off. temperatures: those of the columns of log_partition.
        mass_by_rank: [K] as in the field; without it, it is computed from the soft ids.
        """
        sizes = np.diff(soft.offsets)
        smoothed = sizes > 0
        if mass_by_rank is None or temperatures:
            rank = np.arange(len(soft.ids)) - np.repeat(soft.offsets[:-1], sizes)
        by_rank: list[float]
        if mass_by_rank is None:
            by_rank = np.bincount(rank, np.exp(soft.logprobs.astype(np.float64)), minlength=topk).tolist()
        else:
            by_rank = mass_by_rank.tolist()
        by_temperature = {}
        for column, temperature in enumerate(temperatures):
            logprobs = soft.logprobs.astype(np.float32) / np.float32(temperature) - np.repeat(soft.log_partition[:, column], sizes)
            by_temperature[str(float(temperature)).removesuffix(".0")] = np.bincount(rank, np.exp(logprobs), minlength=topk).tolist()
        reached = None if mass >= 1.0 else int((np.exp(soft.log_tail[smoothed].astype(np.float64)) <= 1 - mass + _ROUNDING).sum())
        original = np.exp(soft.original_logprob[smoothed].astype(np.float64))
        return cls(
            tokens=len(soft),
            smoothed=int(smoothed.sum()),
            entries=len(soft.ids),
            mass_by_rank=by_rank,
            mass_by_temperature=by_temperature,
            reached_mass=reached,
            original=float(original.sum()),
            original_bins=np.histogram(original, BINS, (0.0, 1.0 + 1e-6))[0].tolist(),
            **counts,
        )

    def __add__(self, other: Self) -> Self:
        def add(a: Any, b: Any) -> Any:
            if isinstance(a, dict):
                return {key: add(a[key], b[key]) for key in a if key in b}
            if a is None or b is None:
                return None
            if not isinstance(a, list):
                return a + b
            a, b = a + [0] * (len(b) - len(a)), b + [0] * (len(a) - len(b))
            return [x + y for x, y in zip(a, b, strict=True)]

        own, others = vars(self), vars(other)  # not asdict: it copies every number, and a run may add up very many units
        total = type(self)(**{k: add(own[k], others[k]) for k in own})
        if self.smoothed and other.smoothed:
            return total
        known = self if self.smoothed else other  # a part without smoothed tokens does not have to know temperatures or a cut-off
        return replace(total, mass_by_temperature=known.mass_by_temperature, reached_mass=known.reached_mass)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read back. DatasetError if a field is unknown, or has no value that it can have."""
        try:
            stats: Self = convert(value, cls)
        except ValueError as error:
            raise DatasetError(f"the statistics of a receipt are damaged: {error}") from None
        if other := value.keys() - {field.name for field in fields(cls)}:
            raise DatasetError(f"the statistics of a receipt are damaged: they have {min(other)}")
        return stats

    def captured(self) -> dict[int, float]:
        """Mean probability inside the first k entries, for the k of RANKS up to K and for K itself."""
        return self._captured(self.mass_by_rank)

    def _captured(self, mass_by_rank: Sequence[float]) -> dict[int, float]:
        total = np.cumsum(mass_by_rank) / max(self.smoothed, 1)
        ranks = sorted({*(r for r in RANKS if r <= len(total)), len(total)} - {0})
        return {k: float(total[k - 1]) for k in ranks}

    def original_quantile(self, q: float) -> float:
        """The q-quantile of p(original), to within a bin of 0.01."""
        total = np.cumsum(self.original_bins)
        return float((np.searchsorted(total, q * total[-1]) + 0.5) / BINS) if total[-1] else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures people ask for, as the manifest has them."""
        smoothed = max(self.smoothed, 1)
        by_temperature = {name: {str(k): v for k, v in self._captured(masses).items()} for name, masses in self.mass_by_temperature.items()}
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "smoothed_tokens": self.smoothed,
            "entries": self.entries,
            "entries_per_token": self.entries / smoothed,
            "padding": 1 - (self.passed or self.tokens) / self.padded if self.padded else 0.0,
            "truncated_rows": self.truncated_rows,
            **({"unknown_tokens": self.unknown_tokens} if self.unknown_tokens else {}),
            **({"task_truncated_rows": self.task_truncated_rows} if self.task_truncated_rows else {}),
            **({"windows": self.windows, "lost_answers": self.lost_answers} if self.windows else {}),
            "unlabelled_rows": self.unlabelled_rows,
            "captured_mass": {str(k): v for k, v in self.captured().items()},
            **({"captured_mass_by_temperature": by_temperature} if by_temperature else {}),
            **({} if self.reached_mass is None else {"reached_mass": self.reached_mass / smoothed}),
            "p_original": {"mean": self.original / smoothed, **{f"q{int(q * 100):02d}": self.original_quantile(q) for q in (0.05, 0.5)}},
            "p_original_bins": self.original_bins,
        }


def captured_by_temperature(statistics: dict[str, Any]) -> dict[float, dict[int, float]]:
    """Temperature -> k -> mean captured mass, of the statistics of a manifest; empty if no token is smoothed."""
    if not statistics.get("smoothed_tokens"):
        return {}
    masses = {"1": statistics["captured_mass"], **statistics.get("captured_mass_by_temperature", {})}
    return {t: {int(k): float(v) for k, v in masses[name].items()} for t, name in sorted((float(name), name) for name in masses)}


def captured_warning(masses: dict[float, float], k: int, *, tail: str = "mean") -> str | None:
    """What a low captured mass means for a student. masses: temperature -> mean mass of the top k; None if all reach LEAST_CAPTURED."""
    low = [f"{mass:.1%} of the probability at temperature {t:g}" for t, mass in sorted(masses.items()) if mass < LEAST_CAPTURED]
    if not low:
        return None
    instead = {"mean": "the mean embedding", "original": "the original token"}[tail]
    return (
        f"the top {k} hold on average {', '.join(low)}. For the rest a student reads {instead} (--tail {tail}): "
        "use a lower temperature, or store more entries (--topk)"
    )
