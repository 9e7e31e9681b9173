"""The picture of a comparison: every score, and the differences to the first arm with their intervals."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from textsmooth.pipeline.formatting import counted
from textsmooth.pipeline.training.compare_result import Comparison

INK, QUIET, LINE = "#1f2933", "#52606d", "#cbd2d9"
SCORE, GAIN = "#2166ac", "#b2182b"  # told apart by those who see no red or green


def draw(found: Comparison, path: Path) -> Path:
    """Save the picture as PNG, 150 dots per inch. Returns its path."""
    arms = found.arms
    figure = Figure(figsize=(9, 1.3 + 0.55 * len(arms)), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = list(range(len(arms)))
    for place, arm in zip(places, arms, strict=True):
        left.plot(arm.scores, [place] * len(arm.scores), "o", color=SCORE, alpha=0.45, markersize=5, markeredgewidth=0)
        left.plot([arm.mean], [place], "|", color=INK, markersize=16, markeredgewidth=2)
        if arm.against is not None:
            if not math.isnan(arm.against.low):
                right.plot([arm.against.low, arm.against.high], [place, place], "-", color=GAIN, linewidth=2)
            right.plot([arm.against.mean], [place], "o", color=GAIN, markersize=7)
    right.axvline(0, color=QUIET, linewidth=1, linestyle="--")
    seeds = len(arms[0].scores)
    left.set_xlabel(f"{found.metric} on {found.eval_split}: {counted(seeds, 'seed')} (dots), mean (bar)")
    right.set_xlabel(f"difference to {arms[0].arm}, same seeds: mean, 95 % interval")
    left.set_yticks(places, [arm.arm for arm in arms])
    left.set_ylim(len(arms) - 0.5, -0.5)
    for axes in (left, right):
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=QUIET, length=0)
        axes.xaxis.label.set_color(QUIET)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.suptitle(f"{found.steps:,} updates for every arm", color=INK, fontsize=10, x=0.01, ha="left")
    figure.savefig(path, metadata={"Software": None})
    return path
