"""Copies of files that lie elsewhere, on this machine: whole and checked, up to a limit, shared by all processes.

    <cache>/files/<key>       a copy; the key of a shard is its sha256. Its access time is when it was last asked for
    <cache>/files/.tmp-…      a copy on its way, locked by who fetches it
    <cache>/locks/00 … 3f     held while a file whose key falls there is fetched: once, not by every process

A copy that is in use is locked (shared), so that nobody removes it to make room. Where a file system has no locks, one in use may be
removed: who has it mapped keeps it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.stages.storage.atomic import TEMP_PREFIX

FOLDER_VARIABLE = "TEXTSMOOTH_CACHE"
LIMIT_VARIABLE = "TEXTSMOOTH_CACHE_GB"
DEFAULT_GB = 50.0
LOCKS = 64
HANDED_OUT = 8  # copies that stay locked after they were asked for, until whoever asked has opened them
SEEN_SHARE = 100  # the folder is looked through again when this part of the limit was fetched


class Damaged(Exception):
    """What arrived is not the file that was asked for."""


def folder() -> Path:
    """Where copies are kept."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/textsmooth").expanduser()


def limit() -> int:
    """Bytes that copies may take together. UsageError if it is set to what is no number."""
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GB)
    try:
        found = float(text)
        if not 0 <= found < 1e9:
            raise ValueError
    except ValueError:
        raise UsageError(f"{LIMIT_VARIABLE} is {text!r}: a number of gigabytes is needed, 0 or more") from None
    return int(found * 1e9)


def local_copy(key: str, *, size: int, sha256: str | None, fill: Callable[[BinaryIO], None]) -> Path:
    """The copy of a file in the cache, fetched if it is not there or damaged.

    key: of the copy, names one content. size: bytes. sha256: 64 hex digits, checked on arrival and once in a process; None: only the
    size is. fill: writes the content into an open file. Raises Damaged if that is not what was asked for, twice; StorageError if it
    cannot be kept.
    """
    if not re.fullmatch(r"\w[\w.-]*", key):
        raise Damaged(key)  # it would lead out of the cache
    root = folder()
    path = root / "files" / key
    with _told(root):
        if _take(path, size, sha256):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(root, key):
            for _ in range(2):
                if _take(path, size, sha256):
                    return path
                _make_room(path.parent, size)
                _fetch(path, size, sha256, fill)
            if _take(path, size, sha256):
                return path
    raise Damaged(key)


def kept(key: str, size: int) -> Path | None:
    """The copy in the cache if it is there whole; it is not fetched."""
    path = folder() / "files" / key
    with _told(folder()):
        return path if _take(path, size, None) else None


def hold(descriptor: int) -> None:
    """Keep a copy from being removed as long as this open file descriptor of it is."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                advice = f"make room, set {LIMIT_VARIABLE} lower, or {FOLDER_VARIABLE} to a folder with more of it"
            case _:
                advice = f"set {FOLDER_VARIABLE} to a folder you may write to"
        raise StorageError(f"cannot use the cache in {root}: {error.strerror or error}; {advice}") from error


_checked: dict[str, tuple[int, int, int]] = {}  # key -> which file was found to have its sha256
_handed_out: deque[int] = deque()
_lock = Lock()


def _take(path: Path, size: int, sha256: str | None) -> bool:
    """Whether there is a whole copy; it then stays locked for a while. A damaged one is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(OSError):  # no locks here
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        found = os.fstat(descriptor)
        if not _same(path, found):  # removed while we waited
            return False
        if found.st_size != size or not _fits(path.name, descriptor, found, sha256):
            path.unlink(missing_ok=True)
            return False
        with contextlib.suppress(OSError):  # another user's, who lets us read
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
        _hand_out(descriptor)
        descriptor = -1
        return True
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _hand_out(descriptor: int) -> None:
    """Keep a copy locked until HANDED_OUT others were asked for."""
    with _lock:
        _handed_out.append(descriptor)
        old = [_handed_out.popleft() for _ in range(len(_handed_out) - HANDED_OUT)]
    for done in old:
        os.close(done)


def _same(path: Path, found: os.stat_result) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def _fits(key: str, descriptor: int, found: os.stat_result, sha256: str | None) -> bool:
    if sha256 is None:
        return True
    mark = (found.st_ino, found.st_size, found.st_mtime_ns)
    if _checked.get(key) == mark:
        return True
    with open(os.dup(descriptor), "rb") as file:  # noqa: PTH123 (a descriptor)
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
    _checked[key] = mark
    return True


@contextlib.contextmanager
def _alone(root: Path, key: str) -> Iterator[None]:
    """Only one process, and one thread of it, fetches a file."""
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % LOCKS
    place = root / "locks" / f"{number:02x}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("ab") as file:
        with contextlib.suppress(OSError):  # no locks here: fetched twice, then
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(path: Path, size: int, sha256: str | None, fill: Callable[[BinaryIO], None]) -> None:
    """Put a copy in place, if it is the one that was asked for."""
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        with temp.open("x+b") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fill(file)
            file.flush()
            file.seek(0)
            whole = sha256 is None or hashlib.file_digest(file, "sha256").hexdigest() == sha256
            if whole and os.fstat(file.fileno()).st_size == size:
                with contextlib.suppress(FileNotFoundError):  # taken for a dead process's before it was locked
                    temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


_room: dict[Path, tuple[int, int]] = {}  # folder -> bytes found there, bytes fetched since


def _make_room(files: Path, size: int) -> None:
    """Remove copies, the least recently asked for first, until one more of this size is within the limit."""
    most = limit()
    found, since = _room.get(files, (most, 0))
    if found + since + size <= most and since + size <= most // SEEN_SHARE:
        _room[files] = (found, since + size)
        return
    entries, total = [], 0
    for path in files.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.name.startswith(TEMP_PREFIX):
                _drop(path)  # of a process that was killed; one on its way is locked
                continue
            stat = path.stat()
            entries.append((stat.st_atime_ns, path, stat.st_size))
            total += stat.st_size
    for _, path, taken in sorted(entries):
        if total + size <= most:
            break
        if _drop(path):
            total -= taken
    _room[files] = (total, size)


def _drop(path: Path) -> bool:
    """Remove a file that nobody has locked; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
