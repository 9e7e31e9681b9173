"""What a person, or a log, sees while a run goes on: a live line on a terminal, JSON lines elsewhere. All on stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Self

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import FileEntry
from textsmooth.schemas.plan import Plan
from textsmooth.schemas.printable import printable
from textsmooth.schemas.receipt import Receipt, UnitFailure

if TYPE_CHECKING:
    from rich import progress as bars
    from rich.console import Console

MODES = ("auto", "rich", "json", "none")
UPDATE_LINE_S = 20.0  # a line of training, where there is no bar
FILES_LINE_S = 2.0  # a line on files that arrived
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
            from rich import progress as bars
            from rich.console import Console

            self._bar = bars.Progress(
                bars.TextColumn("{task.description}"),
                bars.BarColumn(bar_width=None),
                bars.MofNCompleteColumn(),
                bars.TextColumn("{task.fields[detail]}"),
                bars.TimeRemainingColumn(),
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


class TrainProgress:
    """Shows the events of a run on a console (stderr unless told otherwise).

    mode: auto (a bar on a terminal, else lines), rich (a bar), json (each event a line, the same as in log.jsonl), none.
    """

    def __init__(self, console: "Console | None" = None, mode: str = "auto") -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False)
        self.mode = mode
        self._bar: bars.Progress | None = None
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
        from rich import progress as bars

        columns = (
            bars.TextColumn("training"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[facts]}"),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self.console, transient=True) as self._bar:
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
        if self._bar is None and now - self._last < UPDATE_LINE_S:
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


class TransferProgress(AbstractContextManager["TransferProgress"]):
    """Counts files and bytes that arrived, and shows them in one of MODES; use as a context manager. UsageError for another mode."""

    def __init__(self, mode: str) -> None:
        if mode not in MODES:
            raise UsageError(f"progress {mode!r} is none of {', '.join(MODES)}")
        self.mode = ("rich" if sys.stderr.isatty() else "json") if mode == "auto" else mode
        self.files = self.bytes = 0
        self._total = {"files": 0, "bytes": 0}
        self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.mode == "rich":
            from rich import progress as bars
            from rich.console import Console

            columns = (bars.BarColumn(bar_width=None), bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
            self._bar = bars.Progress(bars.TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("looking", total=None)
        return self

    def __exit__(self, *args: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, event: str, **fields: Any) -> None:
        """waiting, started, files (now and then), finished: a line of JSON, if that is what is shown."""
        if self.mode == "json":
            print(json.dumps({"event": event, **fields}, ensure_ascii=False), file=sys.stderr, flush=True)

    def waiting(self, where: str) -> None:
        """Another process brings something there."""
        self.tell("waiting", where=where)
        if self._bar is not None:
            said = f"another pull or push is at work in {printable(where)}: this one waits, then goes on from what is there"
            self._bar.console.print(said, markup=False, highlight=False, soft_wrap=True)

    def looking(self, where: str) -> None:
        """At what is there already."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"looking at {where}")

    def start(self, entries: list[FileEntry], lacking: list[FileEntry]) -> None:
        """Those that are lacking are about to be sent."""
        self._total = {"files": len(lacking), "bytes": sum(entry.bytes for entry in lacking)}
        self.tell("started", **self._total, files_there=len(entries) - len(lacking))
        if self._bar is not None:
            self._bar.remove_task(self._task)
            self._task = self._bar.add_task(f"{len(lacking):,} files", total=self._total["bytes"])

    def done(self, entry: FileEntry) -> None:
        """A file has arrived."""
        self.files, self.bytes = self.files + 1, self.bytes + entry.bytes
        if self._bar is not None:
            left = self._total["files"] - self.files
            self._bar.update(self._task, completed=self.bytes, description=f"{left:,} files left")
        if time.monotonic() - self._last > FILES_LINE_S or self.files == self._total["files"]:
            self._last = time.monotonic()
            self.tell("files", done=self.files, bytes_done=self.bytes, **self._total)
