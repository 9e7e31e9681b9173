"""How a training run looks while it goes on: a bar on a terminal, a line now and then elsewhere, or JSON lines. All on stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 20.0


class TrainProgress:
    """Shows the events of a run on a console (stderr unless told otherwise).

    mode: auto (a bar on a terminal, else lines), rich (a bar), json (each event a line, the same as in log.jsonl), none.
    """

    def __init__(self, console: Console | None = None, mode: str = "auto") -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.mode = mode
        self._bar: Progress | None = None
        self._steps = self._tokens = 0
        self._started = self._last = 0.0

    @contextmanager
    def run(self) -> Iterator[None]:
        """While a student is trained."""
        self._steps = self._tokens = 0
        self._started = self._last = time.monotonic()
        if self.mode != "rich" and not (self.mode == "auto" and self.console.is_terminal):
            yield
            return
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._bar.add_task("training", total=None, facts="")
            yield
        self._bar = None

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.mode in ("auto", "rich"):
            self.console.print(text, markup=False, soft_wrap=True)

    def show(self, event: dict[str, Any]) -> None:
        """One event, as log.jsonl has it."""
        if self.mode == "json":
            print(json.dumps(event, ensure_ascii=False), file=sys.stderr, flush=True)
        elif event["event"] in ("started", "resumed"):
            self._begin(event)
        elif event["event"] == "update":
            self._update(event)
        elif event["event"] == "evaluation":
            self._evaluation(event)

    def _begin(self, event: dict[str, Any]) -> None:
        self._steps = event["steps"]
        self._started = self._last = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=event["steps"], completed=event["step"])
        if event["event"] == "resumed":
            self.say(f"going on after update {event['step']:,} of {event['steps']:,}")
        if "note" in event:
            self.say(event["note"])
        if event["unlabelled_rows"]:
            rows = event["rows"] + event["unlabelled_rows"]
            self.say(f"{event['unlabelled_rows']:,} of {rows:,} training rows have no label and are left out")

    def _update(self, event: dict[str, Any]) -> None:
        self._tokens += event["tokens"]
        now = time.monotonic()
        if self._bar is None and now - self._last < LINE_EVERY_S:
            return
        facts = f"loss {event['loss']:.4f}  {self._tokens / max(now - self._started, 1e-9):,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=event["step"], facts=facts)
        else:
            self._last = now
            self.say(f"update {event['step']:,}/{self._steps:,}  lr {event['lr']:.2e}  {facts}")

    def _evaluation(self, event: dict[str, Any]) -> None:
        trained = "  ".join(f"{form} loss {loss:.4f}" for form, loss in event["train_loss"].items())
        scores = "  ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in event["metrics"].items())
        self.say(f"epoch {event['epoch']}  {event['step']:,} updates  {trained}{f'  ->  {scores}' if scores else ''}")
