"""Show the progress of a run on stderr: a live bar, JSON lines, plain lines, or nothing.

`Display` is the one mechanism. Its subclasses say which events a generation, a training and a transfer have; docs/jobs.md lists them.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Self

from textsmooth.schemas.config import PROGRESS_MODES
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import FileEntry
from textsmooth.schemas.plan import Plan
from textsmooth.schemas.printable import printable
from textsmooth.schemas.receipt import Receipt, UnitFailure

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.console import Console

MODES = PROGRESS_MODES
UPDATE_LINE_S = 20.0  # seconds between plain lines of a training
FILES_LINE_S = 2.0  # seconds between events of a transfer
EVENTS = ("started", "unit", "failure", "retry", "waiting", "cluster", "finished")  # of a generation, in docs/jobs.md


class Display(AbstractContextManager["Display"]):
    """A live bar (rich), JSON lines (json), plain lines (lines) or nothing (none). Use as a context manager.

    mode: one of MODES; auto is rich on a terminal and `fallback` elsewhere. UsageError for another mode.
    """

    fallback = "json"
    transfers_bytes = False  # the bar counts bytes instead of rows or steps

    def __init__(self, mode: str = "auto", console: "Console | None" = None) -> None:
        if mode not in MODES:
            raise UsageError(f"progress {mode!r} is none of {', '.join(MODES)}")
        terminal = sys.stderr.isatty() if console is None else console.is_terminal
        self.mode = mode if mode != "auto" else "rich" if terminal else self.fallback
        self._console = console
        self._bar: rich_progress.Progress | None = None

    def __enter__(self) -> Self:
        if self.mode == "rich":
            from rich import progress as rich_progress

            counts = (
                (rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn())
                if self.transfers_bytes
                else (rich_progress.MofNCompleteColumn(), rich_progress.TextColumn("{task.fields[detail]}"))
            )
            description, bar = rich_progress.TextColumn("{task.description}"), rich_progress.BarColumn(bar_width=None)
            columns = (description, bar, *counts, rich_progress.TimeRemainingColumn())
            self._bar = rich_progress.Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self.restart("starting")
        return self

    def __exit__(self, *args: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def console(self) -> "Console":
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console

    def restart(self, description: str, *, total: int | None = None, completed: int = 0, detail: str = "") -> None:
        """Begin the bar again."""
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(description, total=total, completed=completed, detail=detail)

    def update(self, **fields: Any) -> None:
        """Update the bar, with the arguments of rich.progress.Progress.update."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], **fields)

    def line(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self.mode in ("rich", "lines"):
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def emit(self, event: str, **fields: Any) -> None:
        """Print an event as a line of JSON, in mode json."""
        if self.mode == "json":
            print(json.dumps({"event": event, **fields}, ensure_ascii=False, default=str), file=sys.stderr, flush=True)


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function that shows (done, total) on a bar; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Display("rich") as display:
        display.restart(description)
        yield lambda done, total: display.update(completed=done, total=total)


class Progress(Display):
    """The progress of a generation: counts tokens, rows and busy time."""

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.rows = self.tokens = self.padded = 0
        self.workers = 1
        self.busy_s = self.load_s = 0.0
        self._start = time.perf_counter()
        self._started = False

    def emit(self, event: str, **fields: Any) -> None:
        """Show one of EVENTS. Failures, retries, waiting and cluster events also appear above the bar."""
        assert event in EVENTS, event
        super().emit(event, **fields)
        if event in ("failure", "retry", "waiting", "cluster"):
            self.line(f"{event}: {'  '.join(str(fields[name]) for name in ('unit', 'what', 'error') if fields.get(name))}")

    def reading(self, rows: int) -> None:
        """The number of corpus rows read so far."""
        self.update(description="reading the corpus", completed=rows)

    def taking(self, shards: int) -> None:
        """The number of shards of an earlier dataset checked so far."""
        self.update(description="reusing shards", completed=shards)

    def sampling(self, rows: int) -> None:
        """The number of sampled rows that the teacher has read so far."""
        self.update(description="sampling rows", completed=rows)

    def start(
        self, plan: Plan, done: int, *, units: int, out: str, executor: str, notes: tuple[str, ...] = (), warnings: tuple[str, ...] = ()
    ) -> None:
        """Units are about to run; `done` rows in `units` units are finished already. notes, warnings: lines for the user."""
        self._start = time.perf_counter()
        self._started = True
        more = {**({"note": "; ".join(notes)} if notes else {}), **({"warnings": warnings} if warnings else {})}
        of_plan = {"corpus": plan.corpus.name, "out": out, "executor": executor, "rows": plan.rows}
        self.emit("started", **of_plan, rows_done=done, units=len(plan.units), done=units, **more)
        for note in notes:
            self.line(f"note: {note}")
        for warning in warnings:
            self.line(f"warning: {warning}")
        self.restart("smoothing rows", total=plan.rows, completed=done, detail="loading the teacher")

    def ready(self, workers: int = 1) -> None:
        """The workers have loaded the teacher: the clock of the units starts."""
        self.workers = workers
        self.load_s, self._start = self.elapsed_s, time.perf_counter()

    def batch(self, tokens: int, padded: int, rows: int) -> None:
        """A forward pass is done."""
        self.tokens, self.padded, self.rows = self.tokens + tokens, self.padded + padded, self.rows + rows
        padding = 1 - self.tokens / max(self.padded, 1)
        busy = f"  busy {self.busy:.0%}" if self.busy_s else ""  # known after the first unit
        self.update(advance=rows, detail=f"{self.tokens / self.elapsed_s:,.0f} tokens/s  padding {padding:.1%}{busy}")

    def unit(self, receipt: Receipt, done: int, total: int) -> None:
        """A unit is on storage, the number `done` of `total`."""
        self.busy_s += receipt.timings["score_s"]
        self.emit(
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
        """A unit failed; the run continues without it."""
        rows = [row.row for row in failure.rows]
        self.emit("failure", unit=failure.name, error=failure.error, rows=rows, attempts=failure.attempts, node=failure.node)

    def finish(self, record: dict[str, Any]) -> None:
        """The run is over. record: the content of run.json. A run refused before its start emits no event."""
        if self._started or record["exit_code"] == 0:
            self.emit("finished", **record)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the units began."""
        return max(time.perf_counter() - self._start, 1e-9)

    @property
    def busy(self) -> float:
        """Share of the workers' time spent in forward passes, by the receipts so far."""
        return min(self.busy_s / (self.workers * self.elapsed_s), 1.0)


class TrainProgress(Display):
    """The progress of a training: the events of log.jsonl, as JSON or for people."""

    fallback = "lines"

    def __init__(self, console: "Console | None" = None, mode: str = "auto") -> None:
        super().__init__(mode, console)
        self._steps = self._tokens = 0
        self._started = self._last = 0.0

    def __enter__(self) -> Self:
        super().__enter__()
        self.restart("training")
        self._steps = self._tokens = 0
        self._started = self._last = time.monotonic()
        return self

    def show(self, event: dict[str, Any]) -> None:
        """Show an event of log.jsonl."""
        self.emit(**event)
        if event["event"] in ("started", "resumed"):
            self._begin(event)
        elif event["event"] == "update":
            self._update(event)
        elif event["event"] == "evaluation":
            self._evaluation(event)

    def _begin(self, event: dict[str, Any]) -> None:
        self._steps = event["steps"]
        self._started = self._last = time.monotonic()
        self.update(total=event["steps"], completed=event["step"])
        if event["event"] == "resumed":
            self.line(f"resuming after update {event['step']:,} of {event['steps']:,}")
        if "note" in event:
            self.line(event["note"])
        if event["unlabelled_rows"]:
            rows = event["rows"] + event["unlabelled_rows"]
            self.line(f"{event['unlabelled_rows']:,} of {rows:,} training rows have no label and are skipped")

    def _update(self, event: dict[str, Any]) -> None:
        self._tokens += event["tokens"]
        now = time.monotonic()
        detail = f"loss {event['loss']:.4f}  {self._tokens / max(now - self._started, 1e-9):,.0f} tokens/s"
        self.update(completed=event["step"], detail=detail)
        if self.mode == "lines" and now - self._last >= UPDATE_LINE_S:
            self._last = now
            self.line(f"update {event['step']:,}/{self._steps:,}  lr {event['lr']:.2e}  {detail}")

    def _evaluation(self, event: dict[str, Any]) -> None:
        trained = "  ".join(f"{form} loss {loss:.4f}" for form, loss in event["train_loss"].items())
        scores = "  ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in event["metrics"].items())
        self.line(f"epoch {event['epoch']}  {event['step']:,} updates  {trained}{f'  ->  {scores}' if scores else ''}")


class TransferProgress(Display):
    """The progress of a transfer, or of a verification: counts files and bytes."""

    transfers_bytes = True

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.files = self.bytes = 0
        self._total = {"files": 0, "bytes": 0}
        self._last = time.monotonic()

    def waiting(self, where: str) -> None:
        """Another process is writing to the same target."""
        self.emit("waiting", where=where)
        self.line(f"another pull or push is writing to {printable(where)}: waiting for it, then continuing with its files")

    def looking(self, where: str) -> None:
        """The files at the target are being compared."""
        self.update(description=f"comparing {where}")

    def start(self, entries: list[FileEntry], missing: list[FileEntry]) -> None:
        """The missing ones of all entries are about to be sent."""
        self._total = {"files": len(missing), "bytes": sum(entry.bytes for entry in missing)}
        self.emit("started", **self._total, files_there=len(entries) - len(missing))
        self.restart(f"{len(missing):,} files", total=self._total["bytes"])

    def done(self, entry: FileEntry) -> None:
        """A file is complete."""
        self.files, self.bytes = self.files + 1, self.bytes + entry.bytes
        self.update(completed=self.bytes, description=f"{self._total['files'] - self.files:,} files left")
        if time.monotonic() - self._last > FILES_LINE_S or self.files == self._total["files"]:
            self._last = time.monotonic()
            self.emit("files", done=self.files, bytes_done=self.bytes, **self._total)
