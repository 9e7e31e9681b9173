"""The cache of files from object stores: verified copies on this machine, up to a size limit, shared by all processes.

    <cache>/files/<key>       a copy; the key of a shard is its sha256. Its access time is that of the last request
    <cache>/files/.tmp-…      a download in progress, locked by the process that writes it
    <cache>/locks/00 … 3f     held while a file whose key hashes to that number is downloaded: once, not by every process

A copy in use has a shared lock, so that it is not removed to make room. Where a file system has no locks, it may be removed; a process
that has it open or mapped keeps its bytes. Exclusive locks are filelock's. It has no shared lock on a file itself (its ReadWriteLock is
a SQLite database beside it), so the shared ones are flock(2), which is also what filelock uses.
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

from filelock import lock_descriptor

from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.stages.storage.atomic import TEMP_PREFIX
from textsmooth.stages.storage.retry import DAMAGED_DOWNLOAD

FOLDER_VARIABLE = "TEXTSMOOTH_CACHE"
LIMIT_VARIABLE = "TEXTSMOOTH_CACHE_GB"
DEFAULT_GB = 50.0
LOCKS = 64
HELD = 8  # copies that stay locked after they were requested, until the caller has opened them
RESCAN_SHARE = 100  # the folder is listed again when this part of the limit was downloaded


class Damaged(Exception):
    """What arrived is not the requested file."""


def folder() -> Path:
    """The folder of the cache."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.cache/textsmooth").expanduser()


def limit() -> int:
    """Bytes that all copies may take together. UsageError if the variable is not a number."""
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GB)
    try:
        gigabytes = float(text)
        if not 0 <= gigabytes < 1e9:
            raise ValueError
    except ValueError:
        raise UsageError(f"{LIMIT_VARIABLE} is {text!r}: a number of gigabytes is needed, 0 or more") from None
    return int(gigabytes * 1e9)


def local_copy(key: str, *, size: int, sha256: str | None, fill: Callable[[BinaryIO], None]) -> Path:
    """The cached copy of a file, downloaded if it is missing or damaged.

    key: names one content. size: bytes. sha256: 64 hex digits, checked on arrival and once per process; None: only the size is checked.
    fill: writes the content into an open file. Raises Damaged if the wrong content arrives twice, StorageError if the cache cannot
    keep it.
    """
    if not re.fullmatch(r"\w[\w.-]*", key):
        raise Damaged(key)  # it would lead out of the cache
    root = folder()
    path = root / "files" / key

    def attempt() -> None:
        if not _take(path, size, sha256):
            _make_room(path.parent, size)
            _download(path, size, sha256, fill)
            if not _take(path, size, sha256):
                raise Damaged(key)

    with _one_line_errors(root):
        if not _take(path, size, sha256):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _download_lock(root, key):
                DAMAGED_DOWNLOAD.retrying(lambda error: isinstance(error, Damaged))(attempt)
    return path


def kept(key: str, size: int) -> Path | None:
    """The cached copy of a file of this size; None if there is none. Nothing is downloaded."""
    path = folder() / "files" / key
    with _one_line_errors(folder()):
        return path if _take(path, size, None) else None


def hold(descriptor: int) -> None:
    """Keep a copy from being removed while this file descriptor of it is open."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextlib.contextmanager
def _one_line_errors(root: Path) -> Iterator[None]:
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


_checked: dict[str, tuple[int, int, int]] = {}  # key -> inode, size, mtime of the file that had its sha256
_held: deque[int] = deque()
_lock = Lock()


def _take(path: Path, size: int, sha256: str | None) -> bool:
    """Whether there is an undamaged copy; it then stays locked for a while. A damaged one is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        status = os.fstat(descriptor)
        if not _is_same_file(path, status):  # it was removed while this process waited for the lock
            return False
        if status.st_size != size or not _has_sha256(path.name, descriptor, status, sha256):
            path.unlink(missing_ok=True)
            return False
        with contextlib.suppress(OSError):  # a copy of another user, readable only
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        _keep_locked(descriptor)
        descriptor = -1
        return True
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _keep_locked(descriptor: int) -> None:
    """Keep a copy locked until HELD others were requested."""
    with _lock:
        _held.append(descriptor)
        oldest = [_held.popleft() for _ in range(len(_held) - HELD)]
    for old in oldest:
        os.close(old)


def _is_same_file(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False


def _has_sha256(key: str, descriptor: int, status: os.stat_result, sha256: str | None) -> bool:
    if sha256 is None:
        return True
    mark = (status.st_ino, status.st_size, status.st_mtime_ns)
    if _checked.get(key) == mark:
        return True
    with open(os.dup(descriptor), "rb") as file:  # noqa: PTH123 (a descriptor)
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
    _checked[key] = mark
    return True


@contextlib.contextmanager
def _download_lock(root: Path, key: str) -> Iterator[None]:
    """One thread of one process downloads a file; the others wait."""
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % LOCKS
    path = root / "locks" / f"{number:02x}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with contextlib.suppress(OSError):  # the file system has no locks: the file may be downloaded twice
            lock_descriptor(file.fileno())
        yield


def _download(path: Path, size: int, sha256: str | None, fill: Callable[[BinaryIO], None]) -> None:
    """Download a copy, and put it in place if it has the expected size and sha256."""
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        with temp.open("x+b") as file:
            with contextlib.suppress(OSError):
                lock_descriptor(file.fileno(), blocking=False)
            fill(file)
            file.flush()
            file.seek(0)
            whole = sha256 is None or hashlib.file_digest(file, "sha256").hexdigest() == sha256
            if whole and os.fstat(file.fileno()).st_size == size:
                with contextlib.suppress(FileNotFoundError):  # another process removed it before it was locked, as one of a killed process
                    temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


_usage: dict[Path, tuple[int, int]] = {}  # folder -> bytes when it was listed, bytes downloaded since


def _make_room(files: Path, size: int) -> None:
    """Remove copies, the least recently used first, until one more of this size is within the limit."""
    most = limit()
    listed, since = _usage.get(files, (most, 0))
    if listed + since + size <= most and since + size <= most // RESCAN_SHARE:
        _usage[files] = (listed, since + size)
        return
    entries, total = [], 0
    for path in files.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.name.startswith(TEMP_PREFIX):
                _remove_unused(path)  # of a killed process; a download in progress is locked
                continue
            stat = path.stat()
            entries.append((stat.st_atime_ns, path, stat.st_size))
            total += stat.st_size
    for _, path, copy_size in sorted(entries):
        if total + size <= most:
            break
        if _remove_unused(path):
            total -= copy_size
    _usage[files] = (total, size)


def _remove_unused(path: Path) -> bool:
    """Remove a file that no process has locked; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return False
        path.unlink(missing_ok=True)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
