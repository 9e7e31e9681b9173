"""What a person, or a log, sees while a run goes on: a live line on a terminal, one JSON line per unit elsewhere. All on stderr."""

import json
import sys
import time
from contextlib import AbstractContextManager
from typing import Any, Self

from textsmooth.schemas.plan import Plan, Receipt

MODES = ("auto", "rich", "json", "none")


class Progress(AbstractContextManager["Progress"]):
    """Counts tokens and rows, and shows them in one of MODES. Use as a context manager."""

    def __init__(self, mode: str) -> None:
        self.mode = ("rich" if sys.stderr.isatty() else "json") if mode == "auto" else mode
        self.rows = self.tokens = self.padded = 0
        self.busy_s = self.load_s = 0.0
        self._start = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.mode == "rich":
            from rich import progress as rich
            from rich.console import Console

            self._bar = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(bar_width=None),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[detail]}"),
                rich.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None, detail="")
        return self

    def __exit__(self, *args: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def reading(self, rows: int) -> None:
        """The corpus has been read up to so many rows."""
        if self._bar is not None:
            self._bar.update(self._task, description="reading the corpus", completed=rows)

    def sampling(self, rows: int) -> None:
        """So many rows of a sample have been through the teacher."""
        if self._bar is not None:
            self._bar.update(self._task, description="sampling rows", completed=rows)

    def start(self, plan: Plan, done: int) -> None:
        """Units are about to run; `done` rows need not."""
        self._start = time.perf_counter()
        if self._bar is not None:
            self._bar.remove_task(self._task)
            self._task = self._bar.add_task("smoothing rows", total=plan.rows, completed=done, detail="loading the teacher")

    def ready(self) -> None:
        """The teacher is loaded: the clock of the units starts."""
        self.load_s, self._start = self.elapsed_s, time.perf_counter()

    def batch(self, tokens: int, padded: int, rows: int) -> None:
        """A forward pass is done."""
        self.tokens, self.padded, self.rows = self.tokens + tokens, self.padded + padded, self.rows + rows
        if self._bar is not None:
            padding = 1 - self.tokens / max(self.padded, 1)
            busy = f"  busy {self.busy:.0%}" if self.busy_s else ""  # known once a unit is done
            detail = f"{self.tokens / self.elapsed_s:,.0f} tokens/s  padding {padding:.1%}{busy}"
            self._bar.update(self._task, advance=rows, detail=detail)

    def unit(self, receipt: Receipt, done: int, total: int) -> None:
        """A unit is on storage: number `done` of `total`."""
        self.busy_s += receipt.timings["score_s"]
        if self.mode == "json":
            line = {
                "event": "unit",
                "unit": f"{receipt.split}/{receipt.number:05d}",
                "done": done,
                "units": total,
                "rows": receipt.rows,
                "tokens": receipt.tokens,
                "bytes": receipt.bytes,
                "tokens_per_s": round(self.tokens / self.elapsed_s),
                "device_busy": round(self.busy, 3),
                **receipt.timings,
            }
            print(json.dumps(line), file=sys.stderr, flush=True)

    @property
    def elapsed_s(self) -> float:
        """Since the units began."""
        return max(time.perf_counter() - self._start, 1e-9)

    @property
    def busy(self) -> float:
        """Share of the time in which the forward pass ran, by the receipts so far."""
        return min(self.busy_s / self.elapsed_s, 1.0)
