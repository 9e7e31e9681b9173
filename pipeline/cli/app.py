"""The command line: thin. Each command turns its options into one call; every known error into one line and an exit code.

Exit codes: 0 done (or nothing to do), 1 failed, 2 wrong usage, 3 finished but for quarantined units, 130 interrupted (Ctrl-C),
143 terminated (SIGTERM); the last two can be resumed.
"""

import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from textsmooth.pipeline.cli.errors import exit_code_of, print_error, resume_advice
from textsmooth.pipeline.executors.shutdown import listening
from textsmooth.schemas.version import VERSION

COMMANDS = {
    "compare": "textsmooth.pipeline.cli.train:compare",
    "diff": "textsmooth.pipeline.cli.share:diff",
    "doctor": "textsmooth.pipeline.cli.doctor:doctor",
    "gen": "textsmooth.pipeline.cli.gen:gen",
    "inspect": "textsmooth.pipeline.cli.inspect:inspect",
    "merge": "textsmooth.pipeline.cli.share:merge",
    "convert": "textsmooth.pipeline.cli.share:convert",
    "pull": "textsmooth.pipeline.cli.share:pull",
    "push": "textsmooth.pipeline.cli.share:push",
    "report": "textsmooth.pipeline.cli.stats:report",
    "stats": "textsmooth.pipeline.cli.stats:stats",
    "student": "textsmooth.pipeline.cli.train:student",
    "train": "textsmooth.pipeline.cli.train:train",
    "verify": "textsmooth.pipeline.cli.verify:verify",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for: `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = " or ".join(map(repr, difflib.get_close_matches(args[0].lower(), COMMANDS, n=2)))
            raise click.UsageError(f"No such command {args[0]!r}.{f' Did you mean {close}?' if close else ''}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, message=f"textsmooth {VERSION}")
def textsmooth() -> None:
    """Smoothed datasets: a teacher reads a corpus once, students are distilled from what it left.

    \b
    textsmooth doctor                                                   will it work here?
    textsmooth gen --corpus demo                                        make a smoothed dataset
    textsmooth inspect smoothed/demo-demo-k32                           look at it
    textsmooth student --from demo --layers 0,2 --out students/start    a student from the teacher's layers
    textsmooth train smoothed/demo-demo-k32 --student students/start --out students/trained
    textsmooth compare smoothed/demo-demo-k32 --student students/start --arms plain,smoothed    does it help?
    textsmooth report smoothed/demo-demo-k32                            a page to show
    textsmooth verify smoothed/demo-demo-k32                            is every byte what it was?
    textsmooth push smoothed/demo-demo-k32 owner/name                   share it; pull is the way back
    """


def run(command: click.Command, name: str, argv: list[str] | None = None) -> int:
    """Run a command; its exit code. Prints one line for errors a user can cause, a traceback only with --debug."""
    args = sys.argv[1:] if argv is None else argv
    # Before torch is loaded: threads that spin without end make a run 5 x slower where another process wants the same cores; ones that
    # never spin make it 10 % slower where none does.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    _mend_streams()
    try:
        Path.cwd()
    except FileNotFoundError:
        return print_error(_path(name, args), "the folder you are in is gone; cd to another one", 1)
    with listening():
        return exit_code_of(
            lambda: command.main(args=args, prog_name=name, standalone_mode=False),
            _path(name, args),
            after=resume_advice(name, args),
            debug="--debug" in args,
        )


def _mend_streams() -> None:
    """Output that is closed goes nowhere; what it cannot encode is escaped."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (as long as the process)
        elif hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace")


def _path(name: str, args: list[str]) -> str:
    """The command as it was typed: `textsmooth inspect`."""
    return f"{name} {args[0]}" if name == "textsmooth" and args and args[0] in COMMANDS else name


def _entry(command: Any, name: str) -> None:
    sys.exit(run(command, name))


def main() -> None:
    """`textsmooth`."""
    _entry(textsmooth, "textsmooth")


def gen_main() -> None:
    """`textsmooth-gen`, the same as `textsmooth gen`."""
    from textsmooth.pipeline.cli.gen import gen

    _entry(gen, "textsmooth-gen")


def train_main() -> None:
    """`textsmooth-train`, the same as `textsmooth train`."""
    from textsmooth.pipeline.cli.train import train

    _entry(train, "textsmooth-train")
