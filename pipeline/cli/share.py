"""`textsmooth diff`."""

import json

import click

from textsmooth.pipeline.cli.app import Command


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("a")
@click.argument("b")
@click.option("--rows", type=click.IntRange(0), default=256, show_default=True, help="Rows of A that are looked for in B; 0 for none.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if they are not the same dataset, as `git diff --exit-code` does.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def diff(a: str, b: str, rows: int, as_json: bool, exit_code: bool, debug: bool) -> int:
    """Say what differs between two datasets: provenance, numbers, shards, and the soft ids of rows that both have.

    The exit code is 0 whether they differ or not, unless --exit-code is given: 1 stands for a command that failed.
    """
    from textsmooth.pipeline.share.diff import diff as run

    found = run(a, b, rows=rows)
    click.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=1) if as_json else found.summary())
    return int(exit_code and not found.same)
