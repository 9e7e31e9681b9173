"""Format the figures of a dataset as text: the output of `textsmooth stats`."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from textsmooth.pipeline.formatting import columns, size
from textsmooth.pipeline.inspect.stats import MANIFEST, SAMPLE, Figures
from textsmooth.pipeline.inspect.token_counts import P_BIN, Histogram, SmoothedWord, quantile_text

LEAST, MOST = 40, 100  # columns
BLOCK = "█"  # of a bar
ASCII = str.maketrans({BLOCK: "#", "…": "."})  # each as wide
BAR = 30  # columns of the longest bar
WORD = 20  # columns of a word
REPLACEMENTS = 3
TIED = "\u00a0"  # a space at which no line is broken


def stats_table(stats: Figures, width: int = MOST, *, ascii_only: bool = False) -> str:
    """Text at most `width` columns wide, from LEAST to MOST; only a word without spaces may be wider. ascii_only: draw bars with `#`."""
    width = max(LEAST, min(width, MOST))
    text = "\n".join(part for line in _lines(stats, width) for part in _wrapped(line, width)).replace(TIED, " ")
    return text.translate(ASCII) if ascii_only else text


def _wrapped(line: str, width: int) -> list[str]:
    """Wrap a line that is too long; lines of tables and bars are indented and always fit."""
    if line.startswith(" ") or cell_len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _lines(stats: Figures, width: int) -> Iterator[str]:
    yield f"{stats.dataset}: {stats.name}"
    yield ""
    cut, each = stats.cut, "window" if stats.cut else "row"
    head = ["split", "rows", *(["windows"] if cut else []), "tokens", "shards", "size"]
    rows = [
        [s.split, f"{s.rows:,}", *([f"{s.windows or 0:,}"] if cut else []), f"{s.tokens:,}", f"{s.shards:,}", _size(s.bytes)]
        for s in stats.splits
    ]
    if len(rows) > 1:
        windows = [f"{sum(s.windows or 0 for s in stats.splits):,}"] if cut else []
        shards = f"{sum(s.shards for s in stats.splits):,}"
        rows.append(["all", f"{stats.rows:,}", *windows, f"{stats.tokens:,}", shards, _size(stats.bytes)])
    yield from _records(head, rows, width)
    yield f"{stats.bytes_per_token:,.1f} bytes per token; {stats.smoothed_share:.1%} of the tokens are smoothed"
    yield ""
    c = stats.counted
    if c.source == SAMPLE:
        part = f"{c.rows:,} {each}s ({c.tokens:,} tokens) of {c.shards:,} of {c.of_shards:,} shards, seed {c.seed}"
        yield f"Figures marked * come from a sample: {part}; --all counts every {each}."
        yield ""

    def star(source: str = c.source) -> str:
        return " *" if source == SAMPLE else ""

    yield from _smoothed(stats, width, star)
    yield f"tokens per {each}, special tokens included{star()}"
    if stats.length:
        yield f"{_mean_and_quantiles(stats.length, '{:,.0f}')}, from {stats.length['min']:,} to {stats.length['max']:,}"
        yield from _bars(stats.length_histogram.coarse(4).without_empty_end(), "{:,.0f}", width)
    yield ""
    if stats.labels:
        rows_counted = sum(count for _, count in stats.labels)
        yield f"labels{' of windows' if cut else ''}{star()}"
        yield from _columns([[_cell(name, width), f"{count:,}", f"{count / rows_counted:.1%}"] for name, count in stats.labels])
        yield ""
    if stats.words:
        yield f"most smoothed words: lowest mean p(original), at least {stats.words_at_least:,} occurrences{star()}"
        lines = list(
            _columns([["word", "count", "p"], *([_cell(w.word, width), f"{w.count:,}", f"{w.p_original:.2f}"] for w in stats.words)])
        )
        room = width - cell_len(lines[0]) - 2
        replacements = ["replacements", *(_replacements(w, width, room) for w in stats.words)]
        yield from (f"{line}  {names}".rstrip() for line, names in zip(lines, replacements, strict=True))
        yield ""
    yield from (f"{name}: {value}" for name, value in stats.provenance)


def _smoothed(stats: Figures, width: int, star: Callable[..., str]) -> Iterator[str]:
    """p(original), captured mass and entropy of the smoothed tokens."""
    if not stats.p_original:
        yield f"no token is smoothed{star(stats.p_original_source)}: there is no p(original), captured mass or entropy"
        yield ""
        return
    exact = " over all tokens" if stats.p_original_source == MANIFEST else ""
    yield f"p(original): the probability of the original token{exact}; quantiles to within {P_BIN}{star(stats.p_original_source)}"
    yield _mean_and_quantiles(stats.p_original, "{:.2f}", quantile_text)
    yield from _bars(stats.p_original_histogram.coarse(10).without_empty_end(), "{:.1f}", width)
    yield ""
    yield f"captured mass: the mean probability in the top k entries{star(stats.captured_source)}"
    masses = {"mass": stats.captured_mass}
    if stats.captured_mass_by_temperature:
        by_temperature = {1.0: stats.captured_mass, **stats.captured_mass_by_temperature}
        masses = {f"at temperature {t:g}": by_temperature[t] for t in sorted(by_temperature)}
    ranks = list(stats.captured_mass)
    room = (width - 2 - max(map(len, masses))) // len("  0.123")
    for start in range(0, len(ranks), room):
        some = ranks[start : start + room]
        yield from _columns(
            [["k", *(f"{k:>5}" for k in some)], *([name, *(f"{by_k[k]:.3f}" for k in some)] for name, by_k in masses.items())]
        )
    if stats.reached_mass is not None:
        yield f"{stats.reached_mass:.1%} of the smoothed tokens reach mass {stats.mass:g}{star(stats.captured_source)}"
    yield ""
    yield f"entropy of the soft ids in bits, with the tail as one entry{star()}"
    if stats.entropy:
        most = f"mean {stats.entropy['mean_most']:.2f} if the tail is spread evenly over all other tokens"
        yield f"{_mean_and_quantiles(stats.entropy, '{:.2f}')}; {most}"
        yield from _bars(stats.entropy_histogram.coarse(5).without_empty_end(), "{:.1f}", width)
    else:
        yield "no counted token is smoothed"
    yield ""


def _mean_and_quantiles(values: dict[str, float], form: str, quantile: Callable[[float], str] | None = None) -> str:
    """Mean, median and quantiles. quantile: formats the quantiles if they differ from the mean."""
    write = quantile or form.format
    at = {name: write(value).replace(" ", TIED) for name, value in values.items() if name[0] == "q"}
    others = ", ".join(f"{int(name[1:])}{TIED}%{TIED}{value}" for name, value in at.items() if name != "q50")
    return f"mean {form.format(values['mean'])}, median {at['q50']}; {others}"


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


def _replacements(word: SmoothedWord, width: int, room: int) -> str:
    """The replacements of a word: as many as fit into `room` columns, at least one."""
    shown = [f"{_cell(name, width)} {p:.2f}" for name, p in word.replacements[:REPLACEMENTS]]
    while len(shown) > 1 and cell_len("  ".join(shown)) > room:
        shown.pop()
    return "  ".join(shown)


def _records(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A table, or one line per row if the table is too wide."""
    lines = list(_columns([head, *rows]))
    if max(map(cell_len, lines)) <= width:
        yield from lines
        return
    for first, *others in rows:
        yield f"{first}: {', '.join(f'{name}{TIED}{value}' for name, value in zip(head[1:], others, strict=True))}"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    return (f"  {line}" for line in columns(rows))
