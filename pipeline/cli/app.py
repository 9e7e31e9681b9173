"""The command line: thin. Each command turns its options into one call; every known error into one line and an exit code.

Exit codes: 0 done (or nothing to do), 1 failed, 2 wrong usage, 3 finished but for quarantined units, 130 interrupted (Ctrl-C),
143 terminated (SIGTERM); the last two can be resumed.
"""

import difflib
import errno
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from textsmooth.pipeline.executors.shutdown import Terminated, listening
from textsmooth.schemas.errors import TextsmoothError
from textsmooth.schemas.printable import printable
from textsmooth.schemas.version import VERSION

COMMANDS = {
    "compare": "textsmooth.pipeline.cli.compare:compare",
    "diff": "textsmooth.pipeline.cli.share:diff",
    "doctor": "textsmooth.pipeline.cli.doctor:doctor",
    "gen": "textsmooth.pipeline.cli.gen:gen",
    "inspect": "textsmooth.pipeline.cli.inspect:inspect",
    "merge": "textsmooth.pipeline.cli.merge:merge",
    "pull": "textsmooth.pipeline.cli.pull:pull",
    "push": "textsmooth.pipeline.cli.push:push",
    "report": "textsmooth.pipeline.cli.report:report",
    "stats": "textsmooth.pipeline.cli.stats:stats",
    "student": "textsmooth.pipeline.cli.student:student",
    "train": "textsmooth.pipeline.cli.train:train",
    "verify": "textsmooth.pipeline.cli.verify:verify",
}


# What a user can cause anywhere a file is opened; every other OSError shows its traceback.
USERS_ERRNO = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EIO,
)


class _FromHub(logging.Handler):
    """Tells once what is read from the Hub: a line on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._json = as_json
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = json.dumps({"event": "reading", **record.args}) if self._json and isinstance(record.args, dict) else record.getMessage()
        if line not in self._told:
            self._told.add(line)
            print(printable(line), file=sys.stderr, flush=True)


class Command(click.Command):
    """A command that says what it reads from the Hub, unless --progress is none.

    It refuses an option given twice where it can be given once: the last one would win without a word.
    """

    def invoke(self, ctx: click.Context) -> Any:
        progress = ctx.params.get("progress", "rich")
        if progress == "none":
            return super().invoke(ctx)
        if progress == "auto" and not sys.stderr.isatty() and self.name != "train":  # which writes plain lines then
            progress = "json"
        log, told = logging.getLogger("textsmooth.stages.storage.folder"), _FromHub(as_json=progress == "json")
        before = log.level
        log.addHandler(told)
        log.setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        finally:
            log.removeHandler(told)
            log.setLevel(before)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            if isinstance(param, click.Option) and not param.multiple and not param.is_flag and order.count(param) > 1:
                raise click.UsageError(f"{param.opts[0]} is given twice; it takes one value", ctx)
        return super().parse_args(ctx, args)


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
@click.version_option(VERSION, prog_name="textsmooth")
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
        return _say(_path(name, args), "the folder you are in is gone; cd to another one", 1)
    with listening():
        return told(
            lambda: command.main(args=args, prog_name=name, standalone_mode=False),
            _path(name, args),
            after=_resume(name, args),
            debug="--debug" in args,
        )


def _mend_streams() -> None:
    """Output that is closed goes nowhere; what it cannot encode is escaped."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (as long as the process)
        elif hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace")


def told(call: Callable[[], Any], path: str, *, after: str, debug: bool) -> int:
    """Call; its exit code. A known error is one line that begins with `path`; with debug it is let through.

    after: what an interrupted run is told to do.
    """
    try:
        result = call()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else path
        return _say(path, f"{error.format_message()} (see {path} --help)", 2)
    except click.ClickException as error:
        return _say(path, error.format_message(), error.exit_code)
    except TextsmoothError as error:
        if debug:
            raise
        return _say(path, str(error), error.exit_code)
    except BrokenPipeError:  # whoever read our output has gone
        sys.stdout = None
        return 1
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None and _output_is_full():
            return _say(path, f"cannot write to standard output: {error.strerror}", 1)
        if debug or error.errno not in USERS_ERRNO:
            raise
        return _say(path, f"{error.filename or 'storage'}: {error.strerror}; check the path, its permissions and the space left", 1)
    except (KeyboardInterrupt, click.Abort):
        return _say(path, f"interrupted; {after}", 130)
    except SystemExit as done:
        if done.code != signal.SIGTERM:
            raise
        return _say(path, f"terminated; {after}", 143)  # while Ray started, which has a handler of its own
    except Terminated:
        return _say(path, f"terminated; {after}", 143)


def _output_is_full() -> bool:
    """Whether standard output takes no more; it is given up then."""
    try:
        if sys.stdout is not None:
            os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        sys.stdout = None
        return True
    return False


def _resume(name: str, args: list[str]) -> str:
    """What running the same command again will do."""
    generates = name == "textsmooth-gen" or (name == "textsmooth" and args[:1] == ["gen"])
    if name == "textsmooth-train" or (name == "textsmooth" and args[:1] == ["train"]):
        return "the same command with --resume goes on from the last checkpoint"
    generates = generates or (name == "textsmooth" and args[:1] in (["compare"], ["merge"], ["pull"], ["push"]))
    if name == "textsmooth" and args[:1] == ["verify"] and "--repair" in args:
        return "files that were mended are in place, the same command mends the rest"
    return "the same command goes on from here" if generates and "--dry-run" not in args else "nothing was written"


def _path(name: str, args: list[str]) -> str:
    """The command as it was typed: `textsmooth inspect`."""
    return f"{name} {args[0]}" if name == "textsmooth" and args and args[0] in COMMANDS else name


def _say(name: str, message: str, code: int) -> int:
    print(printable(f"{name}: {' '.join(message.split())}"), file=sys.stderr)
    return code


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
