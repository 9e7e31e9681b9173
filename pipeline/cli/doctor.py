"""`textsmooth doctor`."""

import json
import shutil
import textwrap
from typing import TYPE_CHECKING

import click

from textsmooth.pipeline.cli.command import command
from textsmooth.schemas.printable import printable

if TYPE_CHECKING:
    from textsmooth.pipeline.diagnostics.check_result import CheckResult

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}
LEFT = 11  # columns of the state


@command
@click.option("--out", metavar="PLACE", help="Try to write there: a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER. Nothing stays.")
@click.option("--ray-address", metavar="HOST:PORT", help="Join that Ray cluster, and leave it.  [default: RAY_ADDRESS, if it is set]")
@click.option("--trial/--no-trial", default=True, show_default=True, help="Smooth a few rows of the demo in a temporary folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--debug", is_flag=True, help="Stop at a check that fails, with its traceback.")
def doctor(out: str | None, ray_address: str | None, trial: bool, as_json: bool, debug: bool) -> int:
    """Find out whether textsmooth works here, how fast, and if not, what to do about it.

    Looks at libraries, machine, Hub and caches, changes nothing, and takes seconds. A note is what works only in part, or needs something
    more to. Exit code 1 if there is a problem.
    """
    from textsmooth.pipeline.diagnostics.check_result import summary, to_json
    from textsmooth.pipeline.diagnostics.run import examine

    width = min(max(shutil.get_terminal_size((100, 24)).columns, 40), 100)
    found: list[CheckResult] = []
    for finding in examine(out=out, ray_address=ray_address, trial=trial, debug=debug):
        if not as_json and (not found or found[-1].group != finding.group):
            click.echo(finding.group)
        found.append(finding)
        if not as_json:
            click.echo(_shown(finding, width))
    click.echo(json.dumps(to_json(found), ensure_ascii=False, indent=1) if as_json else summary(found))
    return 1 if any(finding.state == "problem" for finding in found) else 0


def _shown(finding: "CheckResult", width: int) -> str:
    """A finding's lines: what there is, and below it what to do."""
    lines = _wrapped(f"{finding.name}: {finding.text}", width)
    if finding.remedy is not None:
        first, *more = _wrapped(finding.remedy, width - 3)
        lines += [f"-> {first}", *(f"   {line}" for line in more)]
    state = click.style(f"  {finding.state:<{LEFT - 2}}", fg=COLOURS[finding.state])
    return state + f"\n{' ' * LEFT}".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    """Words are kept whole: paths and commands are there to be copied."""
    return textwrap.wrap(printable(text), width - LEFT, break_long_words=False, break_on_hyphens=False) or [""]
