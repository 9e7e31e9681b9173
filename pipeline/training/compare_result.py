"""What a comparison found: scores of each arm, paired differences, the table."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"  # a line for each finished run

SUMMARY = "compare.json"

PICTURE = "compare.png"

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Against:
    """A paired difference: of the same seeds."""

    mean: float
    low: float  # of the confidence interval; NaN with one seed
    high: float

    @property
    def tells(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + ("" if math.isnan(self.low) else f" [{self.low:+.4f}, {self.high:+.4f}]")


@dataclass(frozen=True, kw_only=True)
class ArmScore:
    """What an arm reached, one score for each seed, in their order."""

    arm: str
    scores: tuple[float, ...]
    against: Against | None  # the first arm; None for that one itself
    tokens_per_s: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; NaN with one seed, or an undefined score."""
        return _stdev(self.scores)

    def to_json(self) -> dict[str, Any]:
        gain = self.against and {"gain": _number(self.against.mean), "interval": [_number(self.against.low), _number(self.against.high)]}
        scores = {"scores": [*map(_number, self.scores)], "mean": _number(self.mean), "sd": _number(self.spread)}
        return {"arm": self.arm, **scores, "tokens_per_s": self.tokens_per_s, **(gain or {})}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found."""

    out: Path
    metric: str
    steps: int  # optimizer updates of every run
    eval_split: str
    arms: tuple[ArmScore, ...]
    picture: Path | None  # None if matplotlib is not installed

    def table(self) -> str:
        """Markdown."""
        first = self.arms[0].arm
        seeds = "".join(f" seed {number} |" for number in range(len(self.arms[0].scores)))
        lines = [
            f"| arm |{seeds} mean | sd | against {first} [{CONFIDENCE:.0%} interval] |",
            "|---|" + "---:|" * (len(self.arms[0].scores) + 2) + "---|",
        ]
        for arm in self.arms:
            scores = "".join(f" {score:.4f} |" for score in arm.scores)
            spread = "" if math.isnan(arm.spread) else f"{arm.spread:.4f}"
            lines.append(f"| {arm.arm} |{scores} {arm.mean:.4f} | {spread} | {arm.against or ''} |")
        return "\n".join(lines)

    def summary(self) -> str:
        """The table, and in words what it does and does not say."""
        distinct = [f"{a.arm} {'above' if a.against.mean > 0 else 'below'}" for a in self.arms[1:] if a.against and a.against.tells]
        undefined = [a.arm for a in self.arms if math.isnan(a.mean)]
        same = [a.arm for a in self.arms[1:] if a.against and not a.against.tells and a.arm not in undefined]
        first = self.arms[0].arm
        lines = [self.table(), "", f"{self.metric} on {self.eval_split}, {self.steps:,} updates for every arm"]
        if distinct:
            lines.append(f"told apart from {first}: {', '.join(distinct)}")
        if same:
            lines.append(f"not told apart from {first}: {', '.join(same)}")
        if undefined:
            lines.append(f"undefined in at least one run: {self.metric} of {', '.join(undefined)}")
        lines.append(f"saved    {self.out}  ({SUMMARY}{f', {PICTURE}' if self.picture else ''}; runs in {RESULTS})")
        if self.picture is None:
            lines.append(f'note     no {PICTURE}: pip install "textsmooth[plot]" and run this again, the runs are kept')
        return "\n".join(lines)


def _stdev(values: Sequence[float]) -> float:
    """Of a sample; NaN if there is one value, or one is NaN."""
    return math.nan if len(values) < 2 or any(map(math.isnan, values)) else statistics.stdev(values)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
