"""What is seen while files are on their way: a bar on a terminal, JSON lines elsewhere. All on stderr."""

import json
import sys
import time
from contextlib import AbstractContextManager
from typing import Any, Self

from textsmooth.pipeline.progress import MODES
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import FileEntry
from textsmooth.schemas.printable import printable

LINE_EVERY_S = 2.0  # JSON lines on files


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
            from rich import progress as rich
            from rich.console import Console

            columns = (rich.BarColumn(bar_width=None), rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
            self._bar = rich.Progress(rich.TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)
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
        if time.monotonic() - self._last > LINE_EVERY_S or self.files == self._total["files"]:
            self._last = time.monotonic()
            self.tell("files", done=self.files, bytes_done=self.bytes, **self._total)
