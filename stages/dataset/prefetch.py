"""The first touch of shards, in the background: fetched and checked while the rows before them are read."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread


class Ahead:
    """Touches shards one after the other in a few threads of its own, until it is closed.

    touch: makes a shard ready; what it raises is raised again where the shard is waited for. Threads start with the first shard, and end
    with the process: one that is closed finishes the shard at hand, unseen, and takes up no other.
    """

    def __init__(self, touch: Callable[[int], object], threads: int) -> None:
        self._touch = touch
        self._most = threads
        self._threads: list[Thread] = []
        self._waiting: SimpleQueue[int | None] = SimpleQueue()
        self._ready: dict[int, Future[None]] = {}
        self._process = os.getpid()

    def begin(self, shards: Iterable[int]) -> None:
        """Touch these too, in this order, after those that were begun before."""
        for shard in shards:
            if shard not in self._ready:
                self._ready[shard] = Future()
                self._waiting.put(shard)
                if len(self._threads) < self._most:
                    self._threads.append(Thread(target=self._work, name="ahead", daemon=True))
                    self._threads[-1].start()

    def wait(self, shard: int) -> None:
        """Return once a shard is ready if it is being touched; at once if it is not, or not yet: whoever needs it now touches it."""
        if os.getpid() != self._process:  # a copy in a forked process: its threads are elsewhere
            return
        future = self._ready.get(shard)
        if future is not None and not future.cancel():
            future.result()

    def close(self) -> None:
        """Give up whatever was not begun."""
        if os.getpid() == self._process:
            for future in self._ready.values():
                future.cancel()
            for _ in self._threads:
                self._waiting.put(None)

    def _work(self) -> None:
        while (shard := self._waiting.get()) is not None:
            future = self._ready[shard]
            if future.set_running_or_notify_cancel():
                try:
                    self._touch(shard)
                    future.set_result(None)
                except BaseException as error:
                    future.set_exception(error)
