"""A click command that reports what it reads from the Hub and refuses an option given twice."""

import json
import logging
import sys
from typing import Any

import click

from textsmooth.schemas.printable import printable


class ReadingFromHub(logging.Handler):
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
        log, told = logging.getLogger("textsmooth.stages.dataset.open"), ReadingFromHub(as_json=progress == "json")
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
