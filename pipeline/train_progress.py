"""How a training run looks while it goes on: a bar on a terminal, a line now and then otherwise."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 20.0


class TrainProgress:
    """Shows updates and scores on a console (stderr unless told otherwise)."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._done = self._steps = self._tokens = 0
        self._started = self._last = 0.0

    @contextmanager
    def run(self, steps: int) -> Iterator[None]:
        """While `steps` updates are being made."""
        self._done, self._steps, self._tokens = 0, steps, 0
        self._started = self._last = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._bar.add_task("training", total=steps, facts="")
            yield
        self._bar = None

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, loss: float, lr: float, tokens: int) -> None:
        """One more update is done."""
        self._done += 1
        self._tokens += tokens
        now = time.monotonic()
        if self._bar is None and now - self._last < LINE_EVERY_S:
            return
        facts = f"loss {loss:.4f}  {self._tokens / max(now - self._started, 1e-9):,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, facts=facts)
        else:
            self._last = now
            self.say(f"update {self._done:,}/{self._steps:,}  lr {lr:.2e}  {facts}")

    def epoch(self, number: int, steps: int, losses: dict[str, float], metrics: dict[str, float | None]) -> None:
        """An epoch is over, and evaluated."""
        trained = "  ".join(f"{form} loss {loss:.4f}" for form, loss in losses.items())
        scores = "  ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in metrics.items())
        self.say(f"epoch {number}  {steps:,} updates  {trained}{f'  ->  {scores}' if scores else ''}")
