"""The figures of a dataset as text: what `textsmooth stats` prints."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from textsmooth.pipeline.formatting import size
from textsmooth.pipeline.inspect.stats import MANIFEST, SAMPLE, Figures
from textsmooth.pipeline.inspect.token_counts import P_BIN, Histogram, SmoothedWord, told_p

LEAST, MOST = 40, 100  # columns
BLOCK = "█"  # of a bar
ASCII = str.maketrans({BLOCK: "#", "…": "."})  # each as wide
BAR = 30  # columns of the longest bar
WORD = 20  # columns of a word
REPLACEMENTS = 3
TIED = "\u00a0"  # a space at which no line is broken


def table(found: Figures, width: int = MOST, *, ascii_only: bool = False) -> str:
    """Lines of at most `width` columns, LEAST to MOST; only what has no space in it may be longer. ascii_only: bars of `#`."""
    width = max(LEAST, min(width, MOST))
    text = "\n".join(part for line in _lines(found, width) for part in _wrapped(line, width)).replace(TIED, " ")
    return text.translate(ASCII) if ascii_only else text


def _wrapped(line: str, width: int) -> list[str]:
    """A line, as several where it is too long; those of tables and bars are narrow enough."""
    if line.startswith(" ") or cell_len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _lines(found: Figures, width: int) -> Iterator[str]:
    yield f"{found.dataset}: {found.name}"
    yield ""
    cut, each = found.cut, "window" if found.cut else "row"
    head = ["split", "rows", *(["windows"] if cut else []), "tokens", "shards", "size"]
    rows = [
        [s.split, f"{s.rows:,}", *([f"{s.windows or 0:,}"] if cut else []), f"{s.tokens:,}", f"{s.shards:,}", _size(s.bytes)]
        for s in found.splits
    ]
    if len(rows) > 1:
        windows = [f"{sum(s.windows or 0 for s in found.splits):,}"] if cut else []
        shards = f"{sum(s.shards for s in found.splits):,}"
        rows.append(["all", f"{found.rows:,}", *windows, f"{found.tokens:,}", shards, _size(found.bytes)])
    yield from _records(head, rows, width)
    yield f"{found.bytes_per_token:,.1f} bytes per token; {found.smoothed_share:.1%} of the tokens are smoothed"
    yield ""
    c = found.counted
    if c.source == SAMPLE:
        part = f"{c.rows:,} {each}s ({c.tokens:,} tokens) of {c.shards:,} of {c.of_shards:,} shards, seed {c.seed}"
        yield f"Figures marked * are of a sample: {part}; --all counts every {each}."
        yield ""

    def star(source: str = c.source) -> str:
        return " *" if source == SAMPLE else ""

    yield from _smoothed(found, width, star)
    yield f"tokens per {each}, specials included{star()}"
    if found.length:
        yield f"{_spread(found.length, '{:,.0f}')}, from {found.length['min']:,} to {found.length['max']:,}"
        yield from _bars(_coarse(found.length_histogram, 4), "{:,.0f}", width)
    yield ""
    if found.labels:
        rows_counted = sum(count for _, count in found.labels)
        yield f"labels{' of windows' if cut else ''}{star()}"
        yield from _columns([[_cell(name, width), f"{count:,}", f"{count / rows_counted:.1%}"] for name, count in found.labels])
        yield ""
    if found.words:
        yield f"most smoothed words: lowest mean p(original), seen at least {found.words_at_least:,} times{star()}"
        lines = list(
            _columns([["word", "seen", "p"], *([_cell(w.word, width), f"{w.count:,}", f"{w.p_original:.2f}"] for w in found.words)])
        )
        room = width - cell_len(lines[0]) - 2
        instead = ["instead", *(_instead(w, width, room) for w in found.words)]
        yield from (f"{line}  {names}".rstrip() for line, names in zip(lines, instead, strict=True))
        yield ""
    yield from (f"{name}: {value}" for name, value in found.provenance)


def _smoothed(found: Figures, width: int, star: Callable[..., str]) -> Iterator[str]:
    """What is told of the tokens that are smoothed."""
    if not found.p_original:
        yield f"no token is smoothed{star(found.p_original_source)}: there is no p(original), captured mass or entropy"
        yield ""
        return
    exact = ", of every token" if found.p_original_source == MANIFEST else ""
    yield f"p(original): the probability of the token that is there{exact}; quantiles to within {P_BIN}{star(found.p_original_source)}"
    yield _spread(found.p_original, "{:.2f}", told_p)
    yield from _bars(_coarse(found.p_original_histogram, 10), "{:.1f}", width)
    yield ""
    yield f"captured mass: the mean probability inside the first k entries{star(found.captured_source)}"
    pairs = list(found.captured_mass.items())
    room = (width - len("  mass")) // len("  0.123")
    for start in range(0, len(pairs), room):
        some = pairs[start : start + room]
        yield from _columns([["k", *(f"{k:>5}" for k, _ in some)], ["mass", *(f"{mass:.3f}" for _, mass in some)]])
    yield ""
    yield f"entropy of the soft ids, in bits, the tail counted as one entry{star()}"
    if found.entropy:
        most = f"mean {found.entropy['mean_most']:.2f} if the tail is spread evenly over all other tokens"
        yield f"{_spread(found.entropy, '{:.2f}')}; {most}"
        yield from _bars(_coarse(found.entropy_histogram, 5), "{:.1f}", width)
    else:
        yield "no token that was counted is smoothed"
    yield ""


def _spread(told: dict[str, float], form: str, quantile: Callable[[float], str] | None = None) -> str:
    """Mean and quantiles. quantile: how these are written, if not as the mean."""
    write = quantile or form.format
    at = {name: write(value).replace(" ", TIED) for name, value in told.items() if name[0] == "q"}
    others = ", ".join(f"{int(name[1:])}{TIED}%{TIED}{value}" for name, value in at.items() if name != "q50")
    return f"mean {form.format(told['mean'])}, median {at['q50']}; {others}"


def _coarse(histogram: Histogram, times: int) -> Histogram:
    """The histogram with so many bins made one, those at the end that hold nothing left out."""
    counts = [sum(histogram.counts[n : n + times]) for n in range(0, len(histogram.counts), times)]
    while len(counts) > 1 and not counts[-1]:
        counts.pop()
    edges = [histogram.edges[min(n * times, len(histogram.edges) - 1)] for n in range(len(counts) + 1)]
    return Histogram(edges=tuple(edges), counts=tuple(counts))


def _bars(histogram: Histogram, form: str, width: int) -> Iterator[str]:
    total, most = max(sum(histogram.counts), 1), max(*histogram.counts, 1)
    names = [f"{form.format(low)} to {form.format(high)}" for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]
    widest = max(map(len, names))
    bar = min(BAR, width - len(f"  {'':>{widest}}  100.0%  "))
    for name, count in zip(names, histogram.counts, strict=True):
        yield f"  {name:>{widest}}  {count / total:>6.1%}  {BLOCK * round(count / most * bar)}".rstrip()


def _size(count: int) -> str:
    return size(count).replace(" ", TIED)


def _cell(text: str, width: int) -> str:
    most = min(WORD, width // 5)
    return text if cell_len(text) <= most else f"{set_cell_size(text, most - 1).rstrip()}…"


def _instead(word: SmoothedWord, width: int, room: int) -> str:
    """What stands in a word's place: as many as there is room for, one at least."""
    found = [f"{_cell(name, width)} {p:.2f}" for name, p in word.replacements[:REPLACEMENTS]]
    while len(found) > 1 and cell_len("  ".join(found)) > room:
        found.pop()
    return "  ".join(found)


def _records(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A table, or where it is too wide a line for each row."""
    lines = list(_columns([head, *rows]))
    if max(map(cell_len, lines)) <= width:
        yield from lines
        return
    for first, *others in rows:
        yield f"{first}: {', '.join(f'{name}{TIED}{value}' for name, value in zip(head[1:], others, strict=True))}"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with columns under each other, all but the first flush right."""
    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        fills = (" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(fill + cell if n else cell + fill for n, (cell, fill) in enumerate(zip(row, fills, strict=True)))}".rstrip()
