"""Files on this machine: put in place whole, created exclusively where only the first may win, durable when the call returns."""

import contextlib
import errno
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.errors import DatasetError, StorageError
from textsmooth.schemas.manifest import AGAIN

TEMP_PREFIX = ".tmp-"  # of this run or one that was killed: removed when a dataset is finished
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
ATTEMPTS = 5  # to put a file in place while other drivers tidy up the same folder


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the errors that users meet into one line with what to do next."""
    try:
        yield
    except OSError as error:
        said = error.strerror or error
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                advice = "make room and run the same command again, finished shards are kept"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                advice = "choose a folder you may write to"
            case errno.ENOTDIR | errno.EEXIST if (link := _link_to_nothing(path)) is not None:
                said, advice = f"{link} is a link to {link.readlink()}, which is not there", "make that folder, or choose another"
            case errno.ENOTDIR | errno.EEXIST:
                advice = "a file stands where a folder is needed; choose another folder"
            case _:
                advice = "see to the storage and run the same command again, or choose another folder"
        raise StorageError(f"cannot write {path}: {said}; {advice}") from error


def _link_to_nothing(path: Path) -> Path | None:
    """The symbolic link on the way to a file that leads nowhere; None if there is none."""
    return next((place for place in (path, *path.parents) if place.is_symlink() and not place.exists()), None)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temp(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """A synced temporary file with the data in the folder of `path`; gone when the block ends, unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        with temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def _place(path: Path, data: bytes | memoryview, place: Callable[[Path], object]) -> None:
    """Write a temporary file and let `place` put it where it belongs, again if another driver tidied it away meanwhile."""
    with _told(path):
        for left in reversed(range(ATTEMPTS)):
            try:
                with _temp(path, data) as temp:
                    place(temp)
                    sync(path.parent)
                return
            except FileNotFoundError:
                if not left:
                    raise


def put_stream(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Put a file in place whole that `fill` writes, from the beginning if it is called again. StorageError if the storage says no."""
    with _told(path):
        for left in reversed(range(ATTEMPTS)):
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
            try:
                with temp.open("xb") as file:
                    fill(file)
                _move(temp, path)
                return
            except FileNotFoundError:  # another process tidied up
                if not left:
                    raise
            finally:
                temp.unlink(missing_ok=True)


def move(temp: Path, path: Path) -> None:
    """Put a file of the same file system in place whole and durable. StorageError if the storage says no."""
    with _told(path):
        _move(temp, path)


def _move(temp: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sync(temp)
    temp.replace(path)
    sync(path.parent)


def put(path: Path, data: bytes | memoryview) -> None:
    """Put a file in place whole: a reader sees the old one or the new one. StorageError if the storage says no."""
    _place(path, data, lambda temp: temp.replace(path))


def _create(path: Path, data: bytes | memoryview) -> bool:
    """Exclusive creation where there are no hard links. Killed in the middle it leaves a damaged file, which readers tell."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def put_exclusive(path: Path, data: bytes | memoryview) -> bool:
    """Put a file in place whole if there is none yet; False, and nothing done, if there is one."""
    mine = True

    def link(temp: Path) -> None:
        nonlocal mine
        try:
            os.link(temp, path)
        except FileExistsError:
            mine = False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            mine = _create(path, data)

    _place(path, data, link)
    return mine


def link(source: Path, path: Path, *, sha256: str) -> bool | None:
    """Give a file a second name, whole and durable when the call returns; False, and nothing done, if its bytes have another sha256.

    None, and nothing done, where that cannot be: another file system, one without links, a source that cannot be read.
    """
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), temp)  # not of a symbolic link itself
            if file_sha256(temp) != sha256:
                return False
            temp.replace(path)
        except OSError:
            return None
        finally:
            temp.unlink(missing_ok=True)  # also if `path` was this file already: then it was not renamed
        sync(path.parent)
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there. StorageError if the storage says no."""
    with _told(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it; another process may put something there, or remove it, at any moment."""
    with _told(folder):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise


def pretty_json(value: dict[str, Any]) -> bytes:
    """JSON as people and diffs like it: UTF-8, a line for each key, and for each element of a list of objects; a newline at the end."""
    line = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    found = io.BytesIO()  # a plan may have a million units: no second copy
    for number, (key, inner) in enumerate(value.items()):
        found.write(f"{',' if number else '{'}\n {line(key)}: ".encode())
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for place, element in enumerate(inner):
                found.write(f"{',' if place else '['}\n  {line(element)}".encode())
            found.write(b"\n ]")
        else:
            found.write(line(inner).encode())
    found.write(b"\n}\n" if value else b"{}\n")
    return found.getvalue()


def parse_json(data: bytes, where: str) -> Any:
    """Parse the bytes of a JSON file; DatasetError if they are not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise DatasetError(f"{where} is damaged ({error}); {AGAIN}") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file; DatasetError if it is not JSON."""
    return parse_json(path.read_bytes(), str(path))
