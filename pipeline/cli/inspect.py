"""`textsmooth inspect`."""

from itertools import islice
from typing import TYPE_CHECKING

import click

from textsmooth.pipeline.cli.command import command, debug_option
from textsmooth.schemas.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from textsmooth.pipeline.inspect.rows import SmoothedRow, SmoothedRows, SmoothedToken


SHOWN = 5  # rows of --grep
LEAST_SHOWN = 0.005  # what would read 0.00 says nothing
WIDEST = 24  # columns of a token
BAR = 5  # columns of the bar of p(original)
AROUND = 6  # tokens shown on either side of a word that was looked for, in rows of more than LONG
LONG = 30
MOST_PLACES = 3  # of a word, shown of one row
# p(original) below so much -> how the token is set; ink and ground are both given: readable on light and dark terminals
SHADES = ((0.1, "black on #f59e42"), (0.3, "black on #f7b96c"), (0.5, "black on #fad39a"), (0.7, "black on #fce8c6"), (0.9, "underline"))


@command
@click.argument("dataset")
@click.option(
    "--row", "rows", type=click.IntRange(0), multiple=True, help="Row of the split; repeatable.  [default: the first that is there]"
)
@click.option("--grep", "word", metavar="WORD", help="Rows whose text holds this word, or words in a row, whatever their case and accents.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help=f"Rows that --grep shows.  [default: {SHOWN}]")
@click.option(
    "--window", type=click.IntRange(0), default=0, show_default=True, help="Window of the row, where long rows were cut into windows."
)
@click.option("--split", help="Split to look into.  [default: the first]")
@click.option(
    "--lam", type=click.FloatRange(0, 1), help="Show what a student reads at this smoothing rate: (1 - lam) x the token + lam x p."
)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Temperature of the teacher's p.")
@click.option("--alternatives", type=click.IntRange(1), default=5, show_default=True, help="Alternatives shown per token.")
@debug_option
def inspect(
    dataset: str,
    rows: tuple[int, ...],
    word: str | None,
    limit: int | None,
    window: int,
    split: str | None,
    lam: float | None,
    temperature: float,
    alternatives: int,
    debug: bool,
) -> None:
    """Show smoothed sentences: each token with the probability that the teacher gives to it, and its most probable alternatives."""
    if word is not None and (rows or window):
        raise click.UsageError("--grep looks through all rows; leave out --row and --window")
    if word is None and limit is not None:
        raise click.UsageError(f"--limit {limit} does nothing without --grep WORD: leave it away, or add that")
    from textsmooth.pipeline.inspect.rows import SmoothedRows

    opened = SmoothedRows(dataset, split, alternatives=alternatives, temperature=temperature, lam=lam)
    console = a_console()
    if word is not None:
        _grep(console, opened, word, limit or SHOWN)
        return
    found = [opened.row(row, window) for row in rows or (opened.first,)]
    _heading(console, opened)
    for row in found:
        show(console, row)


def a_console() -> "Console":
    """What prints text as it is: no markup, no guesses."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def _heading(console: "Console", opened: "SmoothedRows") -> None:
    """What the numbers are, unless they are the teacher's own at temperature 1."""
    temperature = opened.how.temperature
    if opened.lam is not None:
        console.print(
            f"what a student reads at lam {opened.lam:g}, temperature {temperature:g}: (1 - lam) x the token + lam x p", style="dim"
        )
    elif temperature != 1.0:
        console.print(f"the teacher's p at temperature {temperature:g}", style="dim")
    if opened.note:
        console.print(opened.note, style="dim")


def _grep(console: "Console", opened: "SmoothedRows", word: str, limit: int) -> None:
    matches = opened.grep(word)
    shown = 0
    for match in islice(matches, limit):
        if not shown:
            _heading(console, opened)
        row = opened.sample(match.sample)
        show(console, row, match.places)
        shown += 1
    what = "windows" if opened.dataset.manifest.config.get("long") == "window" else "rows"
    more = sum(1 for _ in matches)
    if not shown:
        console.print(f"no row of split {printable(opened.dataset.name)} holds the word")
    elif more:
        console.print(f"… and {more:,} more {what} with it; --limit {shown + more} shows all")


def show(console: "Console", row: "SmoothedRow", places: tuple[tuple[int, int], ...] = ()) -> None:
    """Print a row: a token per line, shaded by how little probability it has itself. places: words to show the surroundings of."""
    from rich.cells import cell_len
    from rich.text import Text

    from textsmooth.pipeline.inspect.rows import NO_LABEL

    label = f", {row.label}" if row.label == NO_LABEL else f", label {row.label}" if row.label is not None else ""
    window = f", window {row.window} (of {row.windows})" if row.window is not None else ""
    console.print(Text(f"{printable(row.split)} row {row.row}{window}{label}", style="bold"))
    near = _near(len(row.tokens), places)
    # characters of some scripts take two columns
    width = min(max((cell_len(row.tokens[n].token) for n in near), default=0), WIDEST)
    indent = 2 + width + 2 + 4 + 1 + BAR + 2
    before = -1
    for n in near:
        token = row.tokens[n]
        if n > before + 1:
            console.print(Text("  …", style="dim"))
        before = n
        line = Text("  ").append(_column(token.token, width), _shade(token.p_original) if token.alternatives else "dim")
        line.append(" " * (width - cell_len(line.plain) + 2))
        if not token.alternatives:
            console.print(line.append("  (plain)", "dim"))
            continue
        line.append(f"  {token.p_original:.2f} ").append(_bar(token.p_original, console.options.ascii_only), "dim").append("  ")
        room = console.width - indent if console.is_terminal else None
        for number, (name, p, same) in enumerate(_worth_showing(token)):
            pair = f"{name} {p:.2f}"
            if number and room is not None and room < cell_len(pair) + 2:
                console.print(line)
                line, room = Text(" " * indent), console.width - indent
            elif number:
                line.append("  ")
            line.append(pair, "bold" if same else "")
            room = None if room is None else room - cell_len(pair) - 2
        rest = 1 - sum(p for _, p, _ in _worth_showing(token))
        if rest >= LEAST_SHOWN:
            if room is not None and room < len("rest 0.00") + 2:
                console.print(line)
                line = Text(" " * (indent - 2))
            line.append(f"  rest {rest:.2f}", "dim")
        console.print(line)
    if len(near) and near[-1] < len(row.tokens) - 1:
        console.print(Text("  …", style="dim"))


def _worth_showing(token: "SmoothedToken") -> list[tuple[str, float, bool]]:
    pairs = zip(token.alternatives, token.is_original, strict=True)
    return [(name, p, same) for number, ((name, p), same) in enumerate(pairs) if number == 0 or p >= LEAST_SHOWN]


def _near(tokens: int, places: tuple[tuple[int, int], ...]) -> list[int]:
    """The tokens to show: all, or of a long row those around the places."""
    if not places or tokens <= LONG:
        return list(range(tokens))
    return sorted({n for first, last in places[:MOST_PLACES] for n in range(max(first - AROUND, 0), min(last + AROUND + 1, tokens))})


def _column(name: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    cut: str = set_cell_size(name, width - 1)
    return name if cell_len(name) <= width else f"{cut.rstrip()}…"


def _shade(p: float) -> str:
    return next((style for below, style in SHADES if p < below), "")


def _bar(p: float, ascii_only: bool) -> str:
    """How probable the token itself is, as a bar of BAR columns."""
    if ascii_only:
        return ("#" * round(p * BAR)).ljust(BAR, ".")
    eighths = round(min(p, 1.0) * BAR * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8])[:BAR].ljust(BAR)
