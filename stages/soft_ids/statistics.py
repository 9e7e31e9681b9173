"""What soft ids look like in numbers: summed per unit, added up over a dataset.

Legend: N tokens, E entries, K entries per token at most.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.soft_ids import SoftIds

BINS = 100  # of the histogram of p(original)
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)  # k for which the captured mass is told


@dataclass(frozen=True, kw_only=True)
class UnitStats:
    """Sums over the tokens of a unit; `+` adds two."""

    rows: int = 0
    tokens: int = 0  # specials included, no padding
    smoothed: int = 0  # tokens with soft ids
    entries: int = 0
    padded: int = 0  # tokens of the forward passes, padding included
    passed: int = 0  # real tokens of the forward passes, where a row has several; else 0
    truncated_rows: int = 0
    windows: int = 0  # rows of the shards, where long rows are cut into windows; else 0
    unknown_tokens: int = 0  # of the text, that the tokenizer has no token for
    task_truncated_rows: int = 0  # cut by the task teacher's own tokenizer
    lost_answers: int = 0  # rows of which no window holds the whole answer
    unlabelled_rows: int = 0
    mass_by_rank: list[float] = field(default_factory=list)  # [K] sum over tokens of the r-th entry's probability
    original: float = 0.0  # sum of p(original)
    original_bins: list[int] = field(default_factory=lambda: [0] * BINS)

    @classmethod
    def of(cls, soft: SoftIds, *, topk: int, mass_by_rank: NDArray[np.float64] | None = None, **counts: int) -> Self:
        """Of the soft ids of a unit, before rounding; the counts are taken as they are.

        mass_by_rank: [K] as in the field; without it, it is computed from the soft ids.
        """
        sizes = np.diff(soft.offsets)
        smoothed = sizes > 0
        if mass_by_rank is None:
            rank = np.arange(len(soft.ids)) - np.repeat(soft.offsets[:-1], sizes)
            mass_by_rank = np.bincount(rank, np.exp(soft.logprobs.astype(np.float64)), minlength=topk)
        original = np.exp(soft.original_logprob[smoothed].astype(np.float64))
        return cls(
            tokens=len(soft),
            smoothed=int(smoothed.sum()),
            entries=len(soft.ids),
            mass_by_rank=mass_by_rank.tolist(),
            original=float(original.sum()),
            original_bins=np.histogram(original, BINS, (0.0, 1.0 + 1e-6))[0].tolist(),
            **counts,
        )

    def __add__(self, other: Self) -> Self:
        def add(a: Any, b: Any) -> Any:
            if not isinstance(a, list):
                return a + b
            a, b = a + [0] * (len(b) - len(a)), b + [0] * (len(a) - len(b))
            return [x + y for x, y in zip(a, b, strict=True)]

        mine, theirs = vars(self), vars(other)  # not asdict: it copies every number, and a run may add up very many units
        return type(self)(**{k: add(mine[k], theirs[k]) for k in mine})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def captured(self) -> dict[int, float]:
        """Mean probability inside the first k entries, for the k of RANKS up to K and for K itself."""
        total = np.cumsum(self.mass_by_rank) / max(self.smoothed, 1)
        ranks = sorted({*(r for r in RANKS if r <= len(total)), len(total)} - {0})
        return {k: float(total[k - 1]) for k in ranks}

    def original_quantile(self, q: float) -> float:
        """The q-quantile of p(original), to within a bin of 0.01."""
        total = np.cumsum(self.original_bins)
        return float((np.searchsorted(total, q * total[-1]) + 0.5) / BINS) if total[-1] else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures people ask for, as the manifest has them."""
        smoothed = max(self.smoothed, 1)
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
            "p_original": {"mean": self.original / smoothed, **{f"q{int(q * 100):02d}": self.original_quantile(q) for q in (0.05, 0.5)}},
            "p_original_bins": self.original_bins,
        }
