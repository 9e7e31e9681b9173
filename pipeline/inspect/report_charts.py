"""Charts of a report as inline SVG: axes with units, a title and a description, and the numbers as a table behind each."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from textsmooth.pipeline.inspect.token_counts import Histogram

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 50  # room for axes


def histogram(name: str, title: str, told: Histogram, *, x: str, what: str, note: str, form: str = "{:.2f}", bars: int = 50) -> str:
    """Bars of the share of `what` in each bin. name: of the figure in the page. x: the axis with its unit. form: of the edges."""
    told = _joined(told, bars)
    total, top = max(sum(told.counts), 1), max(*told.counts, 1)
    ticks = nice_ticks(100 * top / total)
    across, up = _scale(told.edges[0], told.edges[-1], LEFT, WIDTH - RIGHT), _scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    peak = told.counts.index(max(told.counts))
    rows = [(f"{form.format(a)} to {form.format(b)}", n) for a, b, n in zip(told.edges, told.edges[1:], told.counts, strict=False)]
    described = f"{x} of {total:,} {what}. Most, {told.counts[peak] / total:.1%}, lie at {rows[peak][0]}."
    parts = [*_y_axis(ticks, up, f"share of {what} (%)"), *_x_axis([(v, form.format(v)) for v in _edge_ticks(told.edges)], across, x)]
    for (low, high), (span, count) in zip(zip(told.edges, told.edges[1:], strict=False), rows, strict=True):
        at, stop, height = across(low), across(high), up(100 * count / total)
        if count:
            size = f'x="{at + 0.5:.1f}" y="{height:.1f}" width="{max(stop - at - 1, 0.5):.1f}" height="{HEIGHT - BOTTOM - height:.1f}"'
            parts.append(f'<rect class="bar" {size}><title>{escape(span)}: {count / total:.2%}</title></rect>')
    cells = [(span, f"{count:,}", f"{count / total:.2%}") for span, count in rows]
    return _figure(name, title, described, note, "".join(parts), (x, what, "share"), cells)


def captured(name: str, title: str, told: dict[int, float], *, note: str) -> str:
    """The mean captured mass against k, k on a logarithmic axis."""
    ks = sorted(told)
    low = max(0.0, math.floor(10 * min(told.values(), default=0.0) - 0.5) / 10)
    ticks = [tick for tick in (n / 20 for n in range(21)) if tick >= low - 1e-9]
    while len(ticks) > 7:
        ticks = ticks[::-1][::2][::-1]
    across, up = (
        _scale(math.log2(ks[0]), math.log2(ks[-1]) or 1.0, LEFT + 12, WIDTH - RIGHT - 12),
        _scale(ticks[0], 1.0, HEIGHT - BOTTOM, TOP),
    )
    places = [(across(math.log2(k)), up(told[k]), k) for k in ks]
    parts = [
        *_y_axis(ticks, up, "mean captured mass", "{:.2f}"),
        *_x_axis([(math.log2(k), str(k)) for k in ks], across, "k, entries kept per token"),
        f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b, _ in places)}"/>',
    ]
    for a, b, k in places:
        parts.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="4.5"><title>k = {k}: {told[k]:.3f}</title></circle>')
        beneath = b < TOP + 24
        parts.append(f'<text class="value" x="{a:.1f}" y="{b + (20 if beneath else -11):.1f}" text-anchor="middle">{told[k]:.3f}</text>')
    described = f"Mean captured mass against k: {', '.join(f'{told[k]:.3f} at {k}' for k in ks)}."
    return _figure(name, title, described, note, "".join(parts), ("k", "mean captured mass"), [(str(k), f"{told[k]:.4f}") for k in ks])


def nice_ticks(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`."""
    step = next(s for s in (m * 10.0**e for e in range(-3, 12) for m in (1, 2, 2.5, 5)) if top / s <= most)
    return [n * step for n in range(max(1, math.ceil(top / step - 1e-9)) + 1)]


def _scale(low: float, high: float, start: float, stop: float) -> "_Scale":
    return _Scale(low, high, start, stop)


class _Scale:
    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self._low, self._start = low, start
        self._each = (stop - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._each


def _joined(told: Histogram, bars: int) -> Histogram:
    """At most so many bins, neighbours made one; empty ones at the end are left out unless the range is 0 to 1."""
    times = math.ceil(len(told.counts) / bars)
    counts = [sum(told.counts[n : n + times]) for n in range(0, len(told.counts), times)]
    edges = [told.edges[min(n * times, len(told.edges) - 1)] for n in range(len(counts) + 1)]
    while len(counts) > 1 and not counts[-1] and edges[-1] != 1.0:
        counts.pop()
        edges.pop()
    return Histogram(edges=tuple(edges), counts=tuple(counts))


def _edge_ticks(edges: Sequence[float]) -> list[float]:
    """About six of the edges, evenly apart, from the first one."""
    step = max(1, math.ceil((len(edges) - 1) / 6))
    step = next((n for n in (1, 2, 4, 5, 10, 20) if n >= step), step)
    return list(edges[::step])


def _y_axis(ticks: Sequence[float], up: _Scale, title: str, form: str = "{:g}") -> Iterator[str]:
    for tick in ticks:
        y = up(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{form.format(tick)}</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(title)}</text>'


def _x_axis(ticks: Sequence[tuple[float, str]], across: _Scale, title: str) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    for value, name in ticks:
        yield f'<text x="{across(value):.1f}" y="{base + 18}" text-anchor="middle">{escape(name)}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(title)}</text>'


def _figure(name: str, title: str, described: str, note: str, inside: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"""<td class="n">{escape(cell)}</td>""" for cell in row[1:])}</tr>'
        for row in rows
    )
    heads = "".join(f'<th scope="col"{"" if n == 0 else " class=n"}>{escape(cell)}</th>' for n, cell in enumerate(head))
    return (
        f'<figure aria-labelledby="{name}-h"><h3 id="{name}-h">{escape(title)}</h3><figcaption>{escape(note)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(described)}</desc>{inside}</svg>'
        f'<details><summary>The numbers<span class="of"> of “{escape(title)}”</span></summary>'
        f'<table class="data"><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></details></figure>'
    )
