"""`textsmooth diff`."""

import json

import click

from textsmooth.pipeline.cli.command import command, debug_option
from textsmooth.pipeline.progress import MODES, counting
from textsmooth.schemas.errors import UsageError


@command
@click.argument("a")
@click.argument("b")
@click.option("--rows", type=click.IntRange(0), default=256, show_default=True, help="Number of rows of A to compare with B; 0: none.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if they are not the same dataset, as `git diff --exit-code` does.")
@debug_option
def diff(a: str, b: str, rows: int, as_json: bool, exit_code: bool, debug: bool) -> int:
    """Say what differs between two datasets: provenance, numbers, shards, and the soft ids of rows that both have.

    The exit code is 0 whether they differ or not, unless --exit-code is given: 1 stands for a command that failed.
    """
    from textsmooth.pipeline.share.diff import diff as run

    found = run(a, b, rows=rows)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else found.summary())
    return int(exit_code and not found.same)


@command
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET DATASET…")
@click.option("--out", required=True, metavar="FOLDER", help="Where the merged dataset goes: a folder, s3://… or gs://….")
@click.option("--overwrite", is_flag=True, help="Remove a dataset that is there first.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@debug_option
def merge(datasets: tuple[str, ...], out: str, overwrite: bool, as_json: bool, debug: bool) -> None:
    """Make one smoothed dataset of several that have the same teacher and settings.

    In each split the rows of the first DATASET come first, then those of the second. Shards are linked, or copied where that cannot be;
    the sources are left as they are. Interrupted, the same command goes on.
    """
    from textsmooth.pipeline.share.merge import merge as run

    with counting("shards") as progress:
        made = run(datasets, out, overwrite=overwrite, progress=progress)
    click.echo(json.dumps(made.to_json(), ensure_ascii=False, indent=1) if as_json else made.summary())


@command
@click.argument("dataset")
@click.argument("out")
@click.option("--codec", metavar="plain|compact[:BOUND]", help="Layout of soft ids in shards.  [default: that of DATASET]")
@click.option("--topk", type=int, help="Keep at most this many entries per token.  [default: all]")
@click.option("--mass", type=float, help="Keep the fewest entries whose probabilities sum to this.  [default: all]")
@click.option("--temperatures", help="Keep the log-partition at these temperatures, such as 1,2.  [default: all]")
@click.option("--format", "kind", default="dataset", show_default=True, metavar="dataset|parquet", help="What to write.")
@click.option("--overwrite", is_flag=True, help="Remove what is in OUT first.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@debug_option
def convert(
    dataset: str,
    out: str,
    codec: str | None,
    topk: int | None,
    mass: float | None,
    temperatures: str | None,
    kind: str,
    overwrite: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Store the smoothed dataset DATASET in another way in the folder OUT: another codec, fewer entries or temperatures, or Parquet.

    Nothing is computed again, and nothing can be added. Interrupted, the same command goes on.
    """
    from textsmooth.pipeline.share.convert import convert as run

    try:
        kept = None if temperatures is None else tuple(float(part) for part in temperatures.split(","))
    except ValueError:
        raise UsageError(f"--temperatures {temperatures}: expected numbers like 1,2") from None
    with counting("shards") as progress:
        made = run(dataset, out, codec=codec, topk=topk, mass=mass, temperatures=kept, format=kind, overwrite=overwrite, progress=progress)
    click.echo(json.dumps(made.to_json(), ensure_ascii=False, indent=1) if as_json else made.summary())


@command
@click.argument("source")
@click.argument("out", required=False)
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable, or a,b.  [default: all]")
@click.option("--shards", metavar="RANGE", help="Only the shards at these places of each split, from 0: 0-9, or 0-3,7.  [default: all]")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--overwrite", is_flag=True, help="Replace another dataset in OUT.")
@click.option("--progress", type=click.Choice(MODES), default="auto", show_default=True, help="How to show progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@debug_option
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


@command
@click.argument("dataset")
@click.argument("to")
@click.option("--public", is_flag=True, help="Make the repository on the Hub public.  [default: a private repository]")
@click.option("--overwrite", is_flag=True, help="Replace another dataset that is there.")
@click.option("--codec", metavar="plain|compact[:BOUND]", help="Convert to this codec on the way, as `textsmooth convert` does.")
@click.option("--progress", type=click.Choice(MODES), default="auto", show_default=True, help="How to show progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@debug_option
def push(dataset: str, to: str, public: bool, overwrite: bool, codec: str | None, progress: str, as_json: bool, debug: bool) -> None:
    """Send the smoothed DATASET to a place: OWNER/NAME on the Hugging Face Hub, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, a folder.

    The same command again sends only what is missing. Readers refuse a dataset that is not there whole. To the Hub: set HF_TOKEN, or run
    `hf auth login`.
    """
    from textsmooth.pipeline.share.push import push as run

    say = (lambda note: click.echo(f"note     {note}", err=True)) if public else (lambda note: None)
    pushed = run(dataset, to, public=public, overwrite=overwrite, codec=codec, progress=progress, say=say)
    click.echo(json.dumps(pushed.to_json(), ensure_ascii=False, indent=1) if as_json else pushed.summary(notes=not public))
