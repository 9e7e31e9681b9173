"""`textsmooth inspect`."""

from typing import TYPE_CHECKING

import click

from textsmooth.pipeline.cli import Command

if TYPE_CHECKING:
    from textsmooth.pipeline.inspect import SmoothedRow


LEAST_SHOWN = 0.005  # what would read 0.00 says nothing


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("dataset")
@click.option("--row", "rows", type=click.IntRange(0), multiple=True, default=(0,), show_default=True, help="Row of the split; repeatable.")
@click.option(
    "--window", type=click.IntRange(0), default=0, show_default=True, help="Window of the row, where long rows were cut into windows."
)
@click.option("--split", help="Split to look into.  [default: the first]")
@click.option("--alternatives", type=click.IntRange(1), default=5, show_default=True, help="Alternatives shown per token.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def inspect(dataset: str, rows: tuple[int, ...], window: int, split: str | None, alternatives: int, debug: bool) -> None:
    """Show smoothed sentences: each token with its most probable alternatives."""
    from textsmooth.pipeline.inspect import read_row

    for row in rows:
        show(read_row(dataset, row, split, alternatives, window))


def show(row: "SmoothedRow") -> None:
    """Print a row: a token per line, darker the surer the teacher is of it."""
    from rich.cells import cell_len

    label = f", label {row.label}" if row.label is not None else ""
    window = f", window {row.window} (of {row.windows})" if row.window is not None else ""
    click.secho(f"{row.split} row {row.row}{window}{label}", bold=True)
    width = max((cell_len(t.token) for t in row.tokens), default=0)  # characters of some scripts take two columns
    for token in row.tokens:
        column = token.token + " " * (width - cell_len(token.token))
        if not token.alternatives:
            click.secho(f"  {column}  (plain)", dim=True)
            continue
        shown = "  ".join(f"{name} {p:.2f}" for i, (name, p) in enumerate(token.alternatives) if i == 0 or p >= LEAST_SHOWN)
        click.echo(f"  {column}  {token.p_original:.2f}  ", nl=False)
        click.secho(shown, fg="yellow" if token.p_original < 0.5 else "cyan" if token.p_original < 0.9 else None)
