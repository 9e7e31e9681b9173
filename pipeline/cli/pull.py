"""`textsmooth pull`."""

import json

import click

from textsmooth.pipeline.cli.app import Command
from textsmooth.pipeline.progress import MODES


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source")
@click.argument("out", required=False)
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable, or a,b.  [default: all]")
@click.option("--shards", metavar="RANGE", help="Only the shards at these places of each split, from 0: 0-9, or 0-3,7.  [default: all]")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--overwrite", is_flag=True, help="Replace another dataset in OUT.")
@click.option("--progress", type=click.Choice(MODES), default="auto", show_default=True, help="On stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def pull(
    source: str,
    out: str | None,
    splits: tuple[str, ...],
    shards: str | None,
    revision: str | None,
    overwrite: bool,
    progress: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Fetch the smoothed dataset at SOURCE (OWNER/NAME on the Hub, s3://…, gs://…, a folder) to OUT.  [default: smoothed/NAME]

    Every file is compared with the manifest when it arrives. The same command again fetches what is missing. Some splits or shards make a
    dataset of their own; pulled into a folder that has a part of the same dataset, they are added to it.
    """
    from textsmooth.pipeline.share.pull import pull as run

    names = tuple(part.strip() for value in splits for part in value.split(","))
    pulled = run(source, out, splits=names, shards=shards, revision=revision, overwrite=overwrite, progress=progress)
    click.echo(json.dumps(pulled.to_json(), ensure_ascii=False, indent=1) if as_json else pulled.summary())
