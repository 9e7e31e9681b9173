"""Prefetch shards: download and check them in background threads while earlier rows are read."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

CLOSE_S = 1.0  # that close waits at most


class Prefetch:
    """Makes shards ready one after the other, in a few daemon threads, until it is closed.

    touch: makes a shard ready; an error it raises is raised again by `wait`. threads: the most that are started, each with a shard that is
    queued. After `close` a thread takes no other shard.
    """

    def __init__(self, touch: Callable[[int], object], threads: int) -> None:
        self._touch = touch
        self._most = threads
        self._threads: list[Thread] = []
        self._waiting: SimpleQueue[int | None] = SimpleQueue()
        self._ready: dict[int, Future[None]] = {}
        self._process = os.getpid()

    def begin(self, shards: Iterable[int]) -> None:
        """Queue these shards, in this order, behind those queued before."""
        for shard in shards:
            if shard not in self._ready:
                self._ready[shard] = Future()
                self._waiting.put(shard)
                if len(self._threads) < self._most:
                    self._threads.append(Thread(target=self._work, name="prefetch", daemon=True))
                    self._threads[-1].start()

    def wait(self, shard: int) -> None:
        """Wait until a shard is ready if a thread is working on it. Otherwise return at once: the caller then makes it ready."""
        if os.getpid() != self._process:  # in a forked process, which has none of the threads
            return
        future = self._ready.get(shard)
        if future is not None and not future.cancel():
            future.result()

    def close(self) -> None:
        """Cancel the shards that no thread has started, and wait for those that one has started, but not for a slow download.

        The process aborts if it ends while a thread is in Arrow's code ("terminate called without an active exception").
        """
        if os.getpid() == self._process:
            for future in self._ready.values():
                future.cancel()
            for _ in self._threads:
                self._waiting.put(None)
            end = time.monotonic() + CLOSE_S
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (shard := self._waiting.get()) is not None:
            future = self._ready[shard]
            if future.set_running_or_notify_cancel():
                try:
                    self._touch(shard)
                    future.set_result(None)
                except BaseException as error:
                    future.set_exception(error)
