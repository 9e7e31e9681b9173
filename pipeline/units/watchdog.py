"""Work that may never end: threads that keep no process alive, and a watch that ends a run whose unit hangs."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

from textsmooth.schemas.errors import MachineError

GRACE_S = 5.0  # for the run to end by itself; after that its process is ended
LOOK_S = 0.25  # between two looks at the clock

P = ParamSpec("P")
T = TypeVar("T")


class Steps(Protocol):
    """Is told of the steps of a unit: reading, the forward pass, writing; of one that fails also each trial of its rows."""

    def step(self, unit: str, what: str) -> AbstractContextManager[None]:
        """Around a step of the unit of that name."""


class Watch(AbstractContextManager["Watch"]):
    """Ends a run in which a step of a unit takes longer than limit_s seconds; with None, does nothing.

    Whoever waits for a step is given a MachineError that names it. Where nobody waits, for instance because the main thread is in the
    forward pass that hangs, the process prints that line and ends with exit code 1.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s, self.hung = limit_s, ""
        self._steps: dict[int, tuple[float, str, str]] = {}  # begun, unit, what
        self._told, self._over = False, threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        if self.limit_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()

    @contextmanager
    def step(self, unit: str, what: str) -> Iterator[None]:
        """Around a step of a unit."""
        key = object()
        self._steps[id(key)] = time.monotonic(), unit, what
        try:
            yield
        finally:
            del self._steps[id(key)]

    def check(self) -> None:
        """MachineError if a step hangs."""
        if self.hung:
            self._told = True
            raise MachineError(self.hung)

    def result(self, future: "Future[T]") -> T:
        """What a future gives, as soon as it is there. MachineError if meanwhile a step hangs."""
        self.check()
        while self.limit_s is not None and not wait([future], timeout=LOOK_S).done:
            self.check()
        return future.result()

    def _look(self) -> None:
        assert self.limit_s is not None
        since = 0.0
        while not self._over.wait(min(self.limit_s / 4, LOOK_S)):
            now = time.monotonic()
            if not self.hung:
                late = next((step for step in list(self._steps.values()) if now - step[0] > self.limit_s), None)
                if late is None:
                    continue
                since = now
                self.hung = (
                    f"unit {late[1]} hangs: {late[2]} takes longer than {self.limit_s:g} s (--unit-timeout); the same command goes on "
                    "from here, with a longer --unit-timeout if units may take that long"
                )
            elif now - since > GRACE_S and not self._told:
                cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
                os.write(2, f"{cursor}textsmooth-gen: {self.hung}\n".encode())  # not print: its lock may be held by what hangs
                os._exit(1)


class Background(AbstractContextManager["Background"]):
    """Calls functions one after the other in a thread that does not keep the process from ending.
    On leaving, what was begun is finished; after a signal, within GRACE_S.

    watch: where it has seen something hang, nobody waits.
    """

    def __init__(self, name: str, watch: Watch) -> None:
        self._watch, self._dropped = watch, False
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *args: object) -> None:
        ends = time.monotonic() + GRACE_S if kind is not None and not issubclass(kind, Exception) else math.inf  # a signal: now
        self._dropped = ends < math.inf
        self._tasks.put(None)
        while self._thread.is_alive() and not self._watch.hung and time.monotonic() < ends:
            self._thread.join(LOOK_S)

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call a function when those before it are done."""
        future: Future[T] = Future()

        def task() -> None:
            if self._dropped:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                found: Any = call(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(found)

        self._tasks.put(task)
        return future

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # what it made is not kept until the next one comes
