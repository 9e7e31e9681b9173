"""What a comparison found: scores of each arm, paired differences, the table."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textsmooth.pipeline.formatting import counted

RESULTS = "results.jsonl"  # a line for each finished run

SUMMARY = "compare.json"

TABLE = "compare.md"

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
        """The scores of every seed, as Markdown."""
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

    def columns(self) -> str:
        """The means, in aligned columns for a terminal."""
        rows = [("arm", "mean", "sd", f"against {self.arms[0].arm} [{CONFIDENCE:.0%} interval]")]
        for arm in self.arms:
            rows.append((arm.arm, f"{arm.mean:.4f}", "" if math.isnan(arm.spread) else f"{arm.spread:.4f}", str(arm.against or "")))
        name, mean, spread = (max(len(row[column]) for row in rows) for column in range(3))
        return "\n".join(f"{row[0]:<{name}}  {row[1]:>{mean}}  {row[2]:>{spread}}  {row[3]}".rstrip() for row in rows)

    def summary(self) -> str:
        """The means, and in words what they do and do not say."""
        undefined = [a.arm for a in self.arms if math.isnan(a.mean)]
        first, seeds = self.arms[0].arm, len(self.arms[0].scores)
        lines = [self.columns(), "", f"{self.metric} on {self.eval_split}, {counted(seeds, 'seed')}, {self.steps:,} updates for every arm"]
        for arm in self.arms[1:]:
            if arm.against is None or arm.arm in undefined:
                continue
            if arm.against.tells:
                lines.append(f"{arm.arm} is {'above' if arm.against.mean > 0 else 'below'} {first}")
            elif not math.isnan(arm.against.low):
                least = (arm.against.high - arm.against.low) / 2
                lines.append(f"{arm.arm} is not told apart from {first}: with these seeds a difference of {least:.4f} or more would be")
        if undefined:
            lines.append(f"undefined in at least one run: {self.metric} of {', '.join(undefined)}")
        lines.append(f"saved    {self.out}  ({SUMMARY}, {TABLE}{f', {PICTURE}' if self.picture else ''}; runs in {RESULTS})")
        if self.picture is None:
            lines.append(f'note     no {PICTURE}: pip install "textsmooth[plot]" and run this again, the runs are kept')
        return "\n".join(lines)


def _stdev(values: Sequence[float]) -> float:
    """Of a sample; NaN if there is one value, or one is NaN."""
    return math.nan if len(values) < 2 or any(map(math.isnan, values)) else statistics.stdev(values)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
