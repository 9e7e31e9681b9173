"""`textsmooth stats`."""

import json
import shutil

import click

from textsmooth.pipeline.cli.command import command, debug_option
from textsmooth.pipeline.progress import counting


@command
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, with all bins of the histograms.")
@click.option("--split", help="Split to count.  [default: all of them together]")
@click.option("--all", "all_rows", is_flag=True, help="Count every row, not a sample, for what the manifest does not have.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the sample.")
@click.option("--words", type=click.IntRange(0), default=20, show_default=True, help="Number of most smoothed words to print.")
@debug_option
def stats(dataset: str, as_json: bool, split: str | None, all_rows: bool, seed: int, words: int, debug: bool) -> None:
    """Print the figures of a dataset: sizes, p(original), captured mass, entropy, lengths, labels, most smoothed words, provenance."""
    from textsmooth.pipeline.inspect.stats import figures

    with counting("reading rows") as progress:
        found = figures(dataset, split=split, all_rows=all_rows, seed=seed, words=words, progress=progress)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    from textsmooth.pipeline.cli.inspect import a_console
    from textsmooth.pipeline.inspect.stats_table import stats_table

    console = a_console()
    console.print(stats_table(found, shutil.get_terminal_size((100, 24)).columns, ascii_only=console.options.ascii_only))


@command
@click.argument("dataset")
@click.option("--out", default="report.html", show_default=True, metavar="FILE", help="The page; an earlier report there is replaced.")
@click.option("--sentences", type=int, default=100, show_default=True, help="Rows shown with their alternatives, 0 to 2000.")
@click.option("--split", help="Split to report on.  [default: all of them together]")
@click.option("--all", "all_rows", is_flag=True, help="Count every row, not a sample, for what the manifest does not have.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the sentences and the sample.")
@debug_option
def report(dataset: str, out: str, sentences: int, split: str | None, all_rows: bool, seed: int, debug: bool) -> None:
    """Write one HTML page about a dataset: sentences with their alternatives, charts, most smoothed words, provenance.

    The page holds text of the corpus. It works offline, from a file, and loads nothing.
    """
    from textsmooth.pipeline.inspect.report import report as write

    with counting("reading rows") as progress:
        made = write(dataset, out=out, sentences=sentences, split=split, all_rows=all_rows, seed=seed, progress=progress)
    click.echo(made.summary())
