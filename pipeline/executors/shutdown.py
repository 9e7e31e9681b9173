"""SIGTERM: what schedulers and spot machines send some time before they kill. Units that run are finished, no further one is begun."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

DRAIN_S = 25.0  # Kubernetes kills after 30 s, a spot machine after 120
SOON_S = 0.05  # until it is looked again whether an import is over


class Terminated(BaseException):
    """SIGTERM arrived, and there is nothing to wait for, or no time."""


_listening = False  # this process handles SIGTERM
_stop: Callable[[], None] | None = None  # while units run
_asked = False


@contextmanager
def listening() -> Iterator[None]:
    """Handle SIGTERM while this block runs. Not outside the main thread: there whoever called handles signals."""
    global _listening, _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in ((signal.SIGTERM, _terminate), (signal.SIGALRM, _over))}
    _listening, _asked = True, False
    try:
        yield
    finally:
        _listening = _asked = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def asked() -> bool:
    """Whether SIGTERM has arrived: nothing more is to be begun."""
    return _asked


def listen_again() -> None:
    """Handle SIGTERM as before, where something else has put its own handler there: ray.init does."""
    if _listening:
        signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def draining(stop: Callable[[], None]) -> Iterator[None]:
    """While this block runs, the first SIGTERM calls `stop`; the second, or DRAIN_S later, raises Terminated, as any does outside."""
    global _stop
    if _asked:
        raise Terminated  # it was raised before, where exceptions are swallowed
    _stop = stop
    listen_again()
    try:
        yield
    finally:
        _stop = None
        if _listening:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _terminate(number: int, frame: FrameType | None) -> None:
    global _asked
    if _stop is None or _asked:
        _asked = True
        _end(frame)
        return
    _asked = True
    # not print: the signal may have come in the middle of one
    told = f"SIGTERM: no further unit is begun, those that run have {DRAIN_S:g} s to end; SIGTERM again ends at once\n"
    os.write(2, told.encode())
    signal.setitimer(signal.ITIMER_REAL, DRAIN_S)
    _stop()


def _over(number: int, frame: FrameType | None) -> None:
    _end(frame)


def _end(frame: FrameType | None) -> None:
    """Raise Terminated; once it is over in the middle of an import: modules in C++ abort, callbacks swallow it."""
    if _importing(frame):
        signal.setitimer(signal.ITIMER_REAL, SOON_S)
    else:
        raise Terminated


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
