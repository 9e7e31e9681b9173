"""`textsmooth report`."""

import click

from textsmooth.pipeline.cli.app import Command


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("dataset")
@click.option("--out", default="report.html", show_default=True, metavar="FILE", help="The page; an earlier report there is replaced.")
@click.option("--sentences", type=int, default=100, show_default=True, help="Rows shown with their alternatives, 0 to 2000.")
@click.option("--split", help="Split to report on.  [default: all of them together]")
@click.option("--all", "all_rows", is_flag=True, help="Count every row, not a sample, for what the manifest does not have.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sentences and the sample.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def report(dataset: str, out: str, sentences: int, split: str | None, all_rows: bool, seed: int, debug: bool) -> None:
    """Write one HTML page about a dataset: sentences with their alternatives, charts, most smoothed words, provenance.

    The page holds text of the corpus. It works offline, from a file, and loads nothing.
    """
    from textsmooth.pipeline.cli.stats import counting
    from textsmooth.pipeline.inspect.report import report as write

    with counting("reading rows") as progress:
        made = write(dataset, out=out, sentences=sentences, split=split, all_rows=all_rows, seed=seed, progress=progress)
    click.echo(made.summary())
