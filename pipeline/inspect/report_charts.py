"""Compute the charts of a report: positions in SVG units, a description, and the numbers as a table. page/chart.html draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from textsmooth.pipeline.inspect.token_counts import Histogram


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    label: str


class Point(NamedTuple):
    x: float
    y: float
    label: str
    value: str
    value_y: float


Ticks = tuple[tuple[float, str], ...]  # position on the axis, text


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with bars, or with points on a line. All texts are plain: the template escapes them."""

    width: ClassVar[int] = 560
    height: ClassVar[int] = 280
    left: ClassVar[int] = 62  # inner edges: the space outside is for axes
    right: ClassVar[int] = 546
    top: ClassVar[int] = 14
    bottom: ClassVar[int] = 230

    name: str  # prefix of element ids
    title: str
    note: str
    description: str  # for screen readers
    x_title: str
    y_title: str
    x_ticks: Ticks
    y_ticks: Ticks
    bars: tuple[Bar, ...] = ()
    points: tuple[Point, ...] = ()
    table_head: tuple[str, ...]
    table_rows: tuple[tuple[str, ...], ...]


def histogram_chart(
    name: str, title: str, histogram: Histogram, *, x_title: str, what: str, note: str, edge_format: str = "{:.2f}", max_bars: int = 50
) -> Chart:
    """Bars with the share of `what` in each bin. x_title: with the unit."""
    histogram = _merge_bins(histogram, max_bars)
    counts, edges = histogram.counts, histogram.edges
    total = max(sum(counts), 1)
    ticks = nice_ticks(100 * max(*counts, 1) / total)
    across, up = _scale(edges[0], edges[-1], Chart.left, Chart.right), _scale(0, ticks[-1], Chart.bottom, Chart.top)
    ranges = [f"{edge_format.format(low)} to {edge_format.format(high)}" for low, high in pairwise(edges)]
    bars = []
    for (low, high), text, count in zip(pairwise(edges), ranges, counts, strict=True):
        if count:
            y = up(100 * count / total)
            width = max(across(high) - across(low) - 1, 0.5)
            bars.append(Bar(across(low) + 0.5, y, width, Chart.bottom - y, f"{text}: {count / total:.2%}"))
    peak = counts.index(max(counts))
    return Chart(
        name=name,
        title=title,
        note=note,
        description=f"{x_title} of {total:,} {what}. The largest bin is {ranges[peak]} with {counts[peak] / total:.1%}.",
        x_title=x_title,
        y_title=f"share of {what} (%)",
        x_ticks=tuple((across(edge), edge_format.format(edge)) for edge in _edge_ticks(edges)),
        y_ticks=tuple((up(tick), f"{tick:g}") for tick in ticks),
        bars=tuple(bars),
        table_head=(x_title, what, "share"),
        table_rows=tuple((text, f"{count:,}", f"{count / total:.2%}") for text, count in zip(ranges, counts, strict=True)),
    )


def captured_mass_chart(name: str, title: str, masses: dict[int, float], *, note: str) -> Chart:
    """The mean captured mass against k, with k on a logarithmic axis. masses: k -> mean captured mass."""
    ks = sorted(masses)
    lowest = max(0.0, math.floor(10 * min(masses.values(), default=0.0) - 0.5) / 10)
    ticks = [tick for tick in (n / 20 for n in range(21)) if tick >= lowest - 1e-9]
    while len(ticks) > 7:
        ticks = ticks[::-1][::2][::-1]
    across = _scale(math.log2(ks[0]), math.log2(ks[-1]) or 1.0, Chart.left + 12, Chart.right - 12)
    up = _scale(ticks[0], 1.0, Chart.bottom, Chart.top)
    points = []
    for k in ks:
        y, value = up(masses[k]), f"{masses[k]:.3f}"
        below = y < Chart.top + 24
        points.append(Point(across(math.log2(k)), y, f"k = {k}: {value}", value, y + (20 if below else -11)))
    return Chart(
        name=name,
        title=title,
        note=note,
        description=f"Mean captured mass against k: {', '.join(f'{masses[k]:.3f} at {k}' for k in ks)}.",
        x_title="k, entries kept per token",
        y_title="mean captured mass",
        x_ticks=tuple((across(math.log2(k)), str(k)) for k in ks),
        y_ticks=tuple((up(tick), f"{tick:.2f}") for tick in ticks),
        points=tuple(points),
        table_head=("k", "mean captured mass"),
        table_rows=tuple((str(k), f"{masses[k]:.4f}") for k in ks),
    )


def nice_ticks(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`."""
    step = next(s for s in (m * 10.0**e for e in range(-3, 12) for m in (1, 2, 2.5, 5)) if top / s <= most)
    return [n * step for n in range(max(1, math.ceil(top / step - 1e-9)) + 1)]


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """A function that maps low to start and high to stop, linearly."""
    factor = (stop - start) / ((high - low) or 1.0)
    return lambda value: start + (value - low) * factor


def _merge_bins(histogram: Histogram, most: int) -> Histogram:
    """At most `most` bins: neighbors are merged, and empty bins at the end dropped unless the range is 0 to 1."""
    coarse = histogram.coarse(math.ceil(len(histogram.counts) / most))
    return coarse if histogram.edges[-1] == 1.0 else coarse.without_empty_end()


def _edge_ticks(edges: Sequence[float]) -> Sequence[float]:
    """About six of the edges at equal distances, beginning with the first."""
    step = max(1, math.ceil((len(edges) - 1) / 6))
    return edges[:: next((n for n in (1, 2, 4, 5, 10, 20) if n >= step), step)]
