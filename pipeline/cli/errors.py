"""Run a command: one line and an exit code for every known error."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from textsmooth.pipeline.executors.shutdown import Terminated
from textsmooth.schemas.errors import TextsmoothError
from textsmooth.schemas.printable import printable

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

NEVER_SUGGESTED = ("--overwrite", "--public")  # options that replace data, or show it to others, are not the way out of a mistyped one


def exit_code_of(call: Callable[[], Any], path: str, *, after: str, debug: bool) -> int:
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
        harmful = isinstance(error, click.NoSuchOption) and set(NEVER_SUGGESTED) & set(error.possibilities or ())
        return print_error(path, f"{error.message if harmful else error.format_message()} (see {path} --help)", 2)
    except click.ClickException as error:
        return print_error(path, error.format_message(), error.exit_code)
    except TextsmoothError as error:
        if debug:
            raise
        return print_error(path, str(error), error.exit_code)
    except BrokenPipeError:  # whoever read our output has gone
        sys.stdout = None
        return 1
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None and _output_is_full():
            return print_error(path, f"cannot write to standard output: {error.strerror}", 1)
        if debug or error.errno not in USERS_ERRNO:
            raise
        return print_error(path, f"{error.filename or 'storage'}: {error.strerror}; check the path, its permissions and the space left", 1)
    except (KeyboardInterrupt, click.Abort):
        return print_error(path, f"interrupted; {after}", 130)
    except SystemExit as done:
        if done.code != signal.SIGTERM:
            raise
        return print_error(path, f"terminated; {after}", 143)  # while Ray started, which has a handler of its own
    except Terminated:
        return print_error(path, f"terminated; {after}", 143)


def _output_is_full() -> bool:
    """Whether standard output takes no more; it is given up then."""
    try:
        if sys.stdout is not None:
            os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        sys.stdout = None
        return True
    return False


def resume_advice(name: str, args: list[str]) -> str:
    """What running the same command again will do."""
    generates = name == "textsmooth-gen" or (name == "textsmooth" and args[:1] == ["gen"])
    if name == "textsmooth-train" or (name == "textsmooth" and args[:1] == ["train"]):
        how = " without --overwrite" if "--overwrite" in args and "--resume" not in args else ""
        return f"the same command{how} goes on from the last checkpoint"
    generates = generates or (name == "textsmooth" and args[:1] in (["compare"], ["convert"], ["merge"], ["pull"], ["push"]))
    if name == "textsmooth" and args[:1] == ["verify"] and "--repair" in args:
        return "files that were mended are in place, the same command mends the rest"
    return "the same command goes on from here" if generates and "--dry-run" not in args else "nothing was written"


def print_error(name: str, message: str, code: int) -> int:
    print(printable(f"{name}: {' '.join(message.split())}"), file=sys.stderr)
    return code
