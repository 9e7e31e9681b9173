"""Click commands and options as textsmooth uses them: options made from dataclass fields, help in groups, notes about the Hub."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field
from typing import Any, TypeVar, get_args, get_origin

import click

from textsmooth.schemas.config import PROGRESS_MODES
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.options import REQUIRED, Option, flag_of, options_of, sentence
from textsmooth.schemas.printable import printable
from textsmooth.schemas.type_checks import field_types
from textsmooth.schemas.version import VERSION

Function = TypeVar("Function", bound=Callable[..., Any])
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class HubNotes(logging.Handler):
    """Print each log record about reading from the Hub once, as a line on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._json = as_json
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = json.dumps({"event": "reading", **record.args}) if self._json and isinstance(record.args, dict) else record.getMessage()
        if line not in self._printed:
            self._printed.add(line)
            print(printable(line), file=sys.stderr, flush=True)


class Command(click.Command):
    """A command that shows its options in groups, prints what it reads from the Hub, and refuses an option that is given twice.

    Without that refusal click takes the last value silently. With --progress none nothing is printed about the Hub.
    """

    def invoke(self, ctx: click.Context) -> Any:
        progress = ctx.params.get("progress", "rich")
        if progress == "none":
            return super().invoke(ctx)
        if progress == "auto" and not sys.stderr.isatty() and self.name != "train":  # train then prints plain lines
            progress = "json"
        log, notes = logging.getLogger("textsmooth.stages.dataset.open"), HubNotes(as_json=progress == "json")
        level_before = log.level
        log.addHandler(notes)
        log.setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        finally:
            log.removeHandler(notes)
            log.setLevel(level_before)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            if isinstance(param, click.Option) and not param.multiple and not param.is_flag and order.count(param) > 1:
                raise click.UsageError(f"{param.opts[0]} is given twice; it takes one value", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if row is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(row)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class GroupedOption(click.Option):
    """A click option with the heading that --help shows it under."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class OrWord(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4
    """A value of another type, or a word that stands for None, such as `auto`."""

    def __init__(self, inner: click.ParamType, word: str) -> None:  # type: ignore[type-arg]
        self.inner, self.word, self.name = inner, word, f"{word}|{inner.name}"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return f"[{self.word}|{'|'.join(map(str, self.inner.choices))}]" if isinstance(self.inner, click.Choice) else None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value is None or value == self.word else self.inner.convert(value, param, ctx)


class NumberOrText(click.ParamType):  # type: ignore[type-arg]
    """A number, or a text that the options dataclass checks."""

    name = "float|text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except ValueError:
            return value


def command(function: Callable[..., Any]) -> click.Command:
    """Make a function a command of textsmooth."""
    with_version = click.version_option(VERSION, message=f"textsmooth {VERSION}")(function)
    return click.command(cls=Command, context_settings=SETTINGS)(with_version)


def options_from(kind: type, *leave_out: str) -> Callable[[Function], Function]:
    """Give a command an option for every option field of a dataclass but those left out."""

    def decorate(function: Function) -> Function:
        for name, (field, details) in reversed(options_of(kind).items()):
            if name not in leave_out:
                function = click_option(name, field, details, field_types(kind)[name])(function)
        return function

    return decorate


def click_option(name: str, field: Field[Any], details: Option, hint: Any) -> Callable[[Function], Function]:
    """The click option of a dataclass field of that type."""
    flag, several = f"--{flag_of(name, details)}", get_origin(hint) is tuple
    more: dict[str, Any] = {"cls": GroupedOption, "group": details.group, "help": sentence(field, details)}
    if field.kw_only and field.default is REQUIRED:
        more["required"] = True
    if hint is bool:
        return click.option(flag, name, is_flag=True, **more)
    element = get_args(hint)[0] if several else hint
    alternatives = get_args(element) or (element,)
    default = None if field.default in (MISSING, REQUIRED) else field.default
    if several:
        default = tuple(f"{value:g}" if isinstance(value, float) else value for value in default or ())
        more |= {"multiple": True, "callback": _split_at_commas(float in alternatives) if details.commas else None}
        kind: Any = click.STRING
    elif details.choices:
        kind = click.Choice(list(details.choices))
    elif float in alternatives:
        kind = NumberOrText() if str in alternatives else click.FLOAT
    else:
        kind = click.INT if int in alternatives else click.STRING
    if details.none_word is not None:
        kind, default = OrWord(kind, details.none_word), details.none_word if default is None else default
    shown = default not in (None, ())
    return click.option(flag, name, type=kind, default=default if shown else None, show_default=shown, metavar=details.metavar, **more)


def _split_at_commas(numbers: bool) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[Any, ...]]:
    def split(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
        parts = tuple(part.strip() for value in values for part in value.split(","))
        try:
            return tuple(map(float, parts)) if numbers else parts
        except ValueError:
            raise UsageError(f"{param.opts[0]} takes numbers separated by commas, not {','.join(values)!r}") from None

    return split


debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
progress_option = click.option(
    "--progress", type=click.Choice(PROGRESS_MODES), default="auto", show_default=True, help="How to show progress on stderr."
)
