"""Graceful shutdown on SIGTERM, which schedulers and spot machines send before they kill: finish the units that run, begin no other."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

DRAIN_S = 25.0  # Kubernetes kills after 30 s, a spot machine after 120
RECHECK_S = 0.05  # between two checks whether an import has ended


class Terminated(BaseException):
    """SIGTERM arrived, and there is nothing to wait for, or no time left."""


_listening = False  # this process handles SIGTERM
_stop: Callable[[], None] | None = None  # while units run
_received = False  # SIGTERM has arrived


@contextmanager
def listening() -> Iterator[None]:
    """Handle SIGTERM while this block runs. In another thread than the main one it does nothing: there the caller handles signals."""
    global _listening, _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in ((signal.SIGTERM, _terminate), (signal.SIGALRM, _over))}
    _listening, _received = True, False
    try:
        yield
    finally:
        _listening = _received = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def terminating() -> bool:
    """Whether SIGTERM has arrived: nothing more may be begun."""
    return _received


def listen_again() -> None:
    """Install the SIGTERM handler again after something else, like ray.init, has replaced it."""
    if _listening:
        signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def draining(stop: Callable[[], None]) -> Iterator[None]:
    """While this block runs, the first SIGTERM calls `stop`; the second, or DRAIN_S later, raises Terminated, as any does outside."""
    global _stop
    if _received:
        raise Terminated  # it was raised before in a place where exceptions are swallowed
    _stop = stop
    listen_again()
    try:
        yield
    finally:
        _stop = None
        if _listening:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _terminate(number: int, frame: FrameType | None) -> None:
    global _received
    if _stop is None or _received:
        _received = True
        _end(frame)
        return
    _received = True
    # not print: the signal may have come in the middle of one
    message = f"SIGTERM: no further unit is begun, those that run have {DRAIN_S:g} s to end; SIGTERM again ends at once\n"
    os.write(2, message.encode())
    signal.setitimer(signal.ITIMER_REAL, DRAIN_S)
    _stop()


def _over(number: int, frame: FrameType | None) -> None:
    _end(frame)


def _end(frame: FrameType | None) -> None:
    """Raise Terminated; during an import, after the import has ended: modules in C++ would abort, callbacks would swallow it."""
    if _importing(frame):
        signal.setitimer(signal.ITIMER_REAL, RECHECK_S)
    else:
        raise Terminated


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
