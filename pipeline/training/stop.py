"""SIGINT and SIGTERM while a student is trained: the update that runs is finished, a checkpoint saved, the way on told."""

import os
import signal
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from textsmooth.pipeline.executors.shutdown import Terminated
from textsmooth.schemas.errors import TextsmoothError

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(TextsmoothError):
    """The run was asked to stop, and can go on later. The exit code is the signal's: 130, 143."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = 128 + number


class Stop(AbstractContextManager["Stop"]):
    """While this block runs, the first signal is only noted; the second ends at once. In another thread, whoever called handles signals.

    file: whose being there asks to stop as well; for processes that get no signal.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.signal: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _NAMES}
        return self

    def __exit__(self, *args: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @property
    def asked(self) -> bool:
        if self.signal is None and self.file is not None and self.file.exists():
            self.signal = int(self.file.read_text() or signal.SIGTERM)
        return self.signal is not None

    def stopped(self, update: int, steps: int, run: Path, way_on: str) -> Stopped:
        """What to raise once a checkpoint of `update` lies in `run`. way_on: how the run is continued."""
        number = self.signal or signal.SIGTERM  # another process was asked
        how = _NAMES[signal.Signals(number)]
        return Stopped(number, f"{how} after update {update:,} of {steps:,}, saved in {run}; {way_on}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader worker, forked: the process that trains decides
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.signal is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        self.signal = number
        # not print: the signal may have come in the middle of one
        os.write(2, b"stopping after this update, which is saved; the same signal again ends at once\n")
