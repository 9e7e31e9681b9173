"""Shards made ready in the background."""

import threading
import time

from textsmooth.stages.dataset import prefetch as module
from textsmooth.stages.dataset.prefetch import Prefetch


def test_close_waits_for_the_shard_that_is_being_read_and_begins_no_other() -> None:
    begun, done = threading.Event(), []

    def touch(shard: int) -> None:
        begun.set()
        time.sleep(0.1)
        done.append(shard)

    prefetch = Prefetch(touch, 1)
    prefetch.begin(range(5))
    begun.wait()
    prefetch.close()
    assert done == [0]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_close_does_not_wait_for_a_slow_download() -> None:
    goes_on = threading.Event()
    prefetch = Prefetch(lambda shard: goes_on.wait(60), 3)
    prefetch.begin(range(3))
    started = time.monotonic()
    prefetch.close()
    assert time.monotonic() - started < 30 * module.CLOSE_S
    goes_on.set()
