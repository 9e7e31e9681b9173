"""The figures of a dataset as text: what `textsmooth stats` prints."""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from textsmooth.pipeline.stats import MANIFEST, SAMPLE, Figures
from textsmooth.pipeline.tally import Histogram

BAR = 30  # columns of the longest bar
WORD = 20  # columns of a word
REPLACEMENTS = 3


def table(found: Figures) -> str:
    """Lines of at most about 100 columns."""
    return "\n".join(_lines(found))


def _lines(found: Figures) -> Iterator[str]:
    yield f"{found.dataset}: {found.name}"
    yield ""
    cut = any(part.windows is not None for part in found.splits)
    head = ["split", "rows", *(["windows"] if cut else []), "tokens", "shards", "MB"]
    rows = [
        [s.split, f"{s.rows:,}", *([f"{s.windows or 0:,}"] if cut else []), f"{s.tokens:,}", f"{s.shards:,}", f"{s.bytes / 1e6:,.1f}"]
        for s in found.splits
    ]
    if len(rows) > 1:
        windows = [f"{sum(s.windows or 0 for s in found.splits):,}"] if cut else []
        shards = f"{sum(s.shards for s in found.splits):,}"
        rows.append(["all", f"{found.rows:,}", *windows, f"{found.tokens:,}", shards, f"{found.bytes / 1e6:,.1f}"])
    yield from _columns([head, *rows])
    yield f"{found.bytes_per_token:,.1f} bytes per token; {found.smoothed_share:.1%} of the tokens are smoothed"
    yield ""
    c = found.counted
    if c.source == SAMPLE:
        part = f"{c.rows:,} rows ({c.tokens:,} tokens) of {c.shards:,} of {c.of_shards:,} shards, seed {c.seed}"
        yield f"Figures marked * are of a sample: {part}; --all counts every row."
        yield ""

    def star(source: str = c.source) -> str:
        return " *" if source == SAMPLE else ""

    exact = ", of every token" if found.p_original_source == MANIFEST else ""
    yield f"p(original): the probability of the token that is there{exact}{star(found.p_original_source)}"
    yield _spread(found.p_original, "{:.2f}")
    yield from _bars(_coarse(found.p_original_histogram, 10), "{:.1f}")
    yield ""
    yield f"captured mass: the mean probability inside the first k entries{star(found.captured_source)}"
    yield from _columns([["k", *(str(k) for k in found.captured_mass)], ["mass", *(f"{m:.3f}" for m in found.captured_mass.values())]])
    yield ""
    yield f"entropy of the soft ids, in bits, the tail counted as one entry{star()}"
    yield f"{_spread(found.entropy, '{:.2f}')}; mean {found.entropy['mean_most']:.2f} if the tail is spread evenly over all other tokens"
    yield from _bars(_coarse(found.entropy_histogram, 5), "{:.1f}")
    yield ""
    yield f"tokens per row, specials included{star()}"
    if found.length:
        yield f"{_spread(found.length, '{:,.0f}')}, from {found.length['min']:,} to {found.length['max']:,}"
        yield from _bars(_coarse(found.length_histogram, 4), "{:,.0f}")
    yield ""
    if found.labels:
        rows_counted = sum(count for _, count in found.labels)
        yield f"labels{star()}"
        yield from _columns([[_cell(name), f"{count:,}", f"{count / rows_counted:.1%}"] for name, count in found.labels])
        yield ""
    if found.words:
        yield f"most smoothed words: lowest mean p(original), seen at least {found.words_at_least:,} times{star()}"
        yield from _columns(
            [
                ["word", "seen", "p", "instead"],
                *(
                    [
                        _cell(w.word),
                        f"{w.count:,}",
                        f"{w.p_original:.2f}",
                        "  ".join(f"{_cell(name)} {p:.2f}" for name, p in w.replacements[:REPLACEMENTS]),
                    ]
                    for w in found.words
                ),
            ],
            left=(0, 3),
        )
        yield ""
    yield from (f"{name}: {value}" for name, value in found.provenance)


def _spread(told: dict[str, float], form: str) -> str:
    quantiles = ", ".join(f"{int(name[1:])} % {form.format(value)}" for name, value in told.items() if name[0] == "q" and name != "q50")
    return f"mean {form.format(told['mean'])}, median {form.format(told['q50'])}; {quantiles}"


def _coarse(histogram: Histogram, times: int) -> Histogram:
    """The histogram with so many bins made one, those at the end that hold nothing left out."""
    counts = [sum(histogram.counts[n : n + times]) for n in range(0, len(histogram.counts), times)]
    while len(counts) > 1 and not counts[-1]:
        counts.pop()
    edges = [histogram.edges[min(n * times, len(histogram.edges) - 1)] for n in range(len(counts) + 1)]
    return Histogram(edges=tuple(edges), counts=tuple(counts))


def _bars(histogram: Histogram, form: str) -> Iterator[str]:
    total, most = max(sum(histogram.counts), 1), max(*histogram.counts, 1)
    names = [f"{form.format(low)} to {form.format(high)}" for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]
    width = max(map(len, names))
    for name, count in zip(names, histogram.counts, strict=True):
        yield f"  {name:>{width}}  {count / total:>6.1%}  {'█' * round(count / most * BAR)}".rstrip()


def _cell(text: str) -> str:
    return text if cell_len(text) <= WORD else f"{set_cell_size(text, WORD - 1).rstrip()}…"


def _columns(rows: Iterable[Sequence[str]], left: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Lines with columns under each other, numbers flush right."""
    rows = [list(row) for row in rows]
    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        padded = []
        for n, (cell, width) in enumerate(zip(row, widths, strict=True)):
            fill = " " * (width - cell_len(cell))
            padded.append(cell + fill if n in left else fill + cell)
        yield f"  {'  '.join(padded)}".rstrip()
