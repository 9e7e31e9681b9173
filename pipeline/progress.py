"""What a person, or a log, sees while a run goes on: a live line on a terminal, JSON lines elsewhere. All on stderr."""

import json
import sys
import time
from contextlib import AbstractContextManager
from typing import Any, Self

from textsmooth.schemas.plan import Plan, Receipt, UnitFailure

MODES = ("auto", "rich", "json", "none")
EVENTS = ("started", "unit", "failure", "retry", "waiting", "cluster", "finished")  # of JSON lines; docs/jobs.md says what each holds


class Progress(AbstractContextManager["Progress"]):
    """Counts tokens and rows, and shows them in one of MODES. Use as a context manager."""

    def __init__(self, mode: str) -> None:
        self.mode = ("rich" if sys.stderr.isatty() else "json") if mode == "auto" else mode
        self.rows = self.tokens = self.padded = 0
        self.workers = 1
        self.busy_s = self.load_s = 0.0
        self._start = time.perf_counter()
        self._started = False
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

    def tell(self, event: str, **fields: Any) -> None:
        """One of EVENTS: a line of JSON, if that is what is shown. A retry, a failure or waiting is shown above the live line, too."""
        assert event in EVENTS, event
        if self.mode == "json":
            print(json.dumps({"event": event, **fields}, ensure_ascii=False, default=str), file=sys.stderr, flush=True)
        elif self._bar is not None and event in ("failure", "retry", "waiting", "cluster"):
            what = "  ".join(str(fields[name]) for name in ("unit", "what", "error") if fields.get(name))
            self._bar.console.print(f"{event}: {what}", markup=False, highlight=False)

    def reading(self, rows: int) -> None:
        """The corpus has been read up to so many rows."""
        if self._bar is not None:
            self._bar.update(self._task, description="reading the corpus", completed=rows)

    def taking(self, shards: int) -> None:
        """So many shards of an earlier dataset have been looked at."""
        if self._bar is not None:
            self._bar.update(self._task, description="taking shards over", completed=shards)

    def sampling(self, rows: int) -> None:
        """So many rows of a sample have been through the teacher."""
        if self._bar is not None:
            self._bar.update(self._task, description="sampling rows", completed=rows)

    def start(self, plan: Plan, done: int, *, units: int, out: str, executor: str, note: str | None = None) -> None:
        """Units are about to run; `done` rows, in so many units, need not. note: what a user may want to see to before."""
        self._start = time.perf_counter()
        self._started = True
        self.tell(
            "started",
            corpus=plan.corpus.name,
            out=out,
            executor=executor,
            rows=plan.rows,
            rows_done=done,
            units=len(plan.units),
            done=units,
            **({} if note is None else {"note": note}),
        )
        if self._bar is not None:
            if note is not None:
                self._bar.console.print(f"note: {note}", markup=False, highlight=False)
            self._bar.remove_task(self._task)
            self._task = self._bar.add_task("smoothing rows", total=plan.rows, completed=done, detail="loading the teacher")

    def ready(self, workers: int = 1) -> None:
        """The teacher is loaded, by so many workers: the clock of the units starts."""
        self.workers = workers
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
        self.tell(
            "unit",
            unit=f"{receipt.split}/{receipt.number:05d}",
            done=done,
            units=total,
            rows=receipt.rows,
            tokens=receipt.tokens,
            bytes=receipt.bytes,
            tokens_per_s=round(self.tokens / self.elapsed_s),
            device_busy=round(self.busy, 3),
            **receipt.timings,
        )

    def failure(self, failure: UnitFailure) -> None:
        """A unit could not be done; the run goes on without it."""
        rows = [row.row for row in failure.rows]
        self.tell("failure", unit=failure.name, error=failure.error, rows=rows, attempts=failure.attempts, node=failure.node)

    def finish(self, record: dict[str, Any]) -> None:
        """The run is over, done or not; record: as run.json. Nothing is said of one that was refused before it started."""
        if self._started or record["exit_code"] == 0:
            self.tell("finished", **record)

    @property
    def elapsed_s(self) -> float:
        """Since the units began."""
        return max(time.perf_counter() - self._start, 1e-9)

    @property
    def busy(self) -> float:
        """Share of the workers' time in which a forward pass ran, by the receipts so far."""
        return min(self.busy_s / (self.workers * self.elapsed_s), 1.0)
