"""`textsmooth gen --config job.yaml`: one corpus after the other."""

import traceback
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textsmooth.pipeline.cli.errors import exit_code_of
from textsmooth.pipeline.executors import shutdown as drain
from textsmooth.pipeline.generation.job_file import check, read_job
from textsmooth.pipeline.generation.summary import summary_text
from textsmooth.pipeline.plan.inputs import default_out
from textsmooth.schemas.config import (
    GenerateOptions,
)
from textsmooth.schemas.errors import TextsmoothError
from textsmooth.stages.storage.folder import is_uri

if TYPE_CHECKING:
    pass

INTERRUPTED = (130, 143)
WORST = (1, 2, 3, 0)  # exit codes: a failure may go away when the job is run again, wrong usage and bad rows do not
MEANING = {1: "failed", 2: "wrong usage", 3: "finished but for quarantined units", 130: "interrupted", 143: "terminated"}


def run_job(path: str, ctx: click.Context) -> int:
    """Run what a job file asks for; the worst exit code. UsageError, before anything runs, for a mistake in it.

    A corpus that fails does not keep the others from being done; an interruption does.
    """
    entries = read_job(path, ctx)
    all_options: list[GenerateOptions] = check(entries, generate_options, ctx.params, _place)
    several = len(all_options) > 1
    lines: list[str] = []
    codes: list[int] = []
    for entry, options in zip(entries, all_options, strict=True):
        out = options.out or str(default_out(options))
        if drain.terminating() or (codes and codes[-1] in INTERRUPTED):
            lines.append(f"{options.corpus}: not begun")
            continue
        code, what = _one(options, entry.params, f"{ctx.command_path}: {options.corpus}" if several else ctx.command_path)
        codes.append(code)
        lines.append(f"{options.corpus}: {what}{f' (exit code {code})' if code else ''}, {out}")
    if several:
        click.echo("\n".join([f"{path}: {len(all_options)} corpora", *(f"  {line}" for line in lines)]))
    if len(codes) < len(all_options) and not set(codes) & set(INTERRUPTED):  # SIGTERM, and the corpus that ran could be finished
        raise drain.Terminated
    return next(code for code in (*INTERRUPTED, *WORST) if code in codes)


def _one(options: GenerateOptions, params: dict[str, Any], path: str) -> tuple[int, str]:
    what = ""

    def call() -> None:
        nonlocal what
        what = generate_one(options, params)

    try:
        code = exit_code_of(call, path, after="the same command goes on from here", debug=params["debug"])
    except Exception as error:  # shown whole, as for a single run; the other corpora have nothing to do with it
        traceback.print_exc()
        code = error.exit_code if isinstance(error, TextsmoothError) else 1
    return code, what or MEANING[code]


def _place(options: GenerateOptions) -> str:
    out = options.out or str(default_out(options))
    return out.rstrip("/") if is_uri(out) else str(Path(out).expanduser().resolve())


def generate_options(params: dict[str, Any]) -> GenerateOptions:
    """The options that the parameters of the command give. UsageError for values that are not allowed."""
    return GenerateOptions(**{f.name: params[f.name] for f in fields(GenerateOptions)})


def generate_one(asked: GenerateOptions, params: dict[str, Any]) -> str:
    """Generate, or preview, and print what came out; what was done in a few words."""
    from textsmooth.pipeline.progress import Progress

    shown = Progress(params["progress"])
    if params["dry_run"]:
        from textsmooth.pipeline.cli.dry_run import preview_text
        from textsmooth.pipeline.generation.dry_run import preview

        click.echo(preview_text(preview(asked, shown), asked.price_per_hour))
        return "previewed"
    from textsmooth.pipeline.generation.run import generate

    made = generate(asked, shown)
    click.echo(summary_text(made))
    return "written" if made.units or made.taken else "finished before"
