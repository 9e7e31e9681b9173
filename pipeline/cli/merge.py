"""`textsmooth merge`."""

import json

import click

from textsmooth.pipeline.cli.app import Command


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET DATASET…")
@click.option("--out", required=True, metavar="FOLDER", help="Where the merged dataset goes: a folder, s3://… or gs://….")
@click.option("--overwrite", is_flag=True, help="Remove a dataset that is there first.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def merge(datasets: tuple[str, ...], out: str, overwrite: bool, as_json: bool, debug: bool) -> None:
    """Make one smoothed dataset of several that have the same teacher and settings.

    In each split the rows of the first DATASET come first, then those of the second. Shards are linked, or copied where that cannot be;
    the sources are left as they are. Interrupted, the same command goes on.
    """
    from textsmooth.pipeline.cli.stats import counting
    from textsmooth.pipeline.share.merge import merge as run

    with counting("shards") as progress:
        made = run(datasets, out, overwrite=overwrite, progress=progress)
    click.echo(json.dumps(made.to_json(), ensure_ascii=False, indent=1) if as_json else made.summary())
