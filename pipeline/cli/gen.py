"""`textsmooth gen`. Its options are the fields of GenerateOptions (schemas/config.py)."""

from typing import Any

import click

from textsmooth.pipeline.cli.command import command, debug_option, options_from
from textsmooth.schemas.config import GenerateOptions


@command
@options_from(GenerateOptions)
@click.option("--config", metavar="FILE", help="YAML file of options, for one corpus or several; options on the command line win.")
@click.option("--dry-run", is_flag=True, help="Run a sample of the rows, print what would be written, kept and lost, and write nothing.")
@debug_option
@click.pass_context
def gen(ctx: click.Context, /, config: str | None, **params: Any) -> int:
    """Make a smoothed dataset: for every token of a corpus, the top of a teacher's distribution over the vocabulary.

    After an interruption the same command continues. A finished folder is never written again.
    """
    from textsmooth.pipeline.cli.job import generate_one, generate_options, run_job

    if config is not None:
        return run_job(config, ctx)
    if params["corpus"] is None:
        raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == "corpus"))
    generate_one(generate_options(params), params)
    return 0
