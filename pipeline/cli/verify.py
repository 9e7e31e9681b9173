"""`textsmooth verify`."""

import json
from typing import Any

import click

from textsmooth.pipeline.cli.command import command, debug_option
from textsmooth.pipeline.progress import MODES


@command
@click.argument("dataset")
@click.option("--checksums", is_flag=True, help="Compare bytes with their sha256 only: faster, and silent on what is in the shards.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Number of shards checked in parallel.  [default: as many as there are CPUs]"
)
@click.option(
    "--against-teacher", type=click.IntRange(0), default=0, metavar="N", help="Run N rows through the teacher again, and compare."
)
@click.option("--repair", is_flag=True, help="Regenerate damaged files, byte for byte.")
@click.option("--teacher", metavar="FOLDER|NAME", help="Location of the teacher.  [default: as the manifest names it]")
@click.option("--corpus", metavar="PLACE", help="Location of the corpus, for --repair.  [default: as the manifest names it]")
@click.option("--task-teacher", metavar="FOLDER|NAME", help="Location of the task teacher, for --repair.")
@click.option("--device", metavar="KIND", help="Device of the teacher: cpu, cuda, mps.  [default: as the dataset was made, if it is here]")
@click.option("--dtype", metavar="KIND", help="Number format of the teacher in --against-teacher.  [default: as the dataset was made]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the rows that --against-teacher takes.")
@click.option("--progress", type=click.Choice(MODES), default="auto", show_default=True, help="How to show progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@debug_option
def verify(dataset: str, as_json: bool, debug: bool, **options: Any) -> int:
    """Check that a smoothed dataset is whole, and what it says of itself.

    DATASET is a folder, s3://…, gs://…, hf://… or owner/name. Every file is compared with the sha256 in the manifest; what is in the
    shards with the format, the plan and the receipts. Each finding is one line, with shard, row and token. Exit code 1 if there are any.
    """
    from textsmooth.pipeline.verification.run import verify as run

    found = run(dataset, **options)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else found.summary())
    return 0 if found.ok else 1
