"""`textsmooth push`."""

import json

import click

from textsmooth.pipeline.cli.app import Command
from textsmooth.pipeline.progress import MODES


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("dataset")
@click.argument("to")
@click.option("--public", is_flag=True, help="Let all read it on the Hub.  [default: a private repository]")
@click.option("--overwrite", is_flag=True, help="Replace another dataset that is there.")
@click.option("--progress", type=click.Choice(MODES), default="auto", show_default=True, help="On stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def push(dataset: str, to: str, public: bool, overwrite: bool, progress: str, as_json: bool, debug: bool) -> None:
    """Send the smoothed DATASET to a place: OWNER/NAME on the Hugging Face Hub, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, a folder.

    The same command again sends only what is missing. Readers refuse a dataset that is not there whole. To the Hub: set HF_TOKEN, or run
    `hf auth login`.
    """
    from textsmooth.pipeline.share.push import push as run

    say = (lambda note: click.echo(f"note     {note}", err=True)) if public else (lambda note: None)
    pushed = run(dataset, to, public=public, overwrite=overwrite, progress=progress, say=say)
    click.echo(json.dumps(pushed.to_json(), ensure_ascii=False, indent=1) if as_json else pushed.summary(notes=not public))
