"""Local files: written whole, created exclusively where only the first writer may win, durable when the call returns."""

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
from textsmooth.stages.storage.retry import TEMP_FILE_REMOVED

TEMP_PREFIX = ".tmp-"  # of a running or killed process; removed when a dataset is finished
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError: one line with what to do next."""
    try:
        yield
    except OSError as error:
        reason: object = error.strerror or error
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                advice = "make room and run the same command again, finished shards are kept"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                advice = "choose a folder you may write to"
            case errno.ENOTDIR | errno.EEXIST if (link := _link_to_nothing(path)) is not None:
                reason, advice = f"{link} is a link to {link.readlink()}, which does not exist", "make that folder, or choose another"
            case errno.ENOTDIR | errno.EEXIST:
                advice = "a file stands where a folder is needed; choose another folder"
            case _:
                advice = "check the storage and run the same command again, or choose another folder"
        raise StorageError(f"cannot write {path}: {reason}; {advice}") from error


def _link_to_nothing(path: Path) -> Path | None:
    """The dangling symbolic link in the path of a file; None if there is none."""
    return next((ancestor for ancestor in (path, *path.parents) if ancestor.is_symlink() and not ancestor.exists()), None)


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temp(path: Path, write: Callable[[BinaryIO], object], place: Callable[[Path], object]) -> None:
    """Write a temporary file beside `path` and have `place` move it there; again if another process removed the temporary file."""

    def attempt() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        try:
            with temp.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            place(temp)
            sync(path.parent)
        finally:
            temp.unlink(missing_ok=True)

    with _one_line_errors(path):
        TEMP_FILE_REMOVED.retrying(lambda error: isinstance(error, FileNotFoundError))(attempt)


def put_stream(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Put in place a whole file that `write` writes; if it is called again, from the beginning. StorageError if the storage refuses."""
    _write_temp(path, write, lambda temp: _move(temp, path))


def move(temp: Path, path: Path) -> None:
    """Put a file of the same file system in place, whole and durable. StorageError if the storage refuses."""
    with _one_line_errors(path):
        sync(temp)
        _move(temp, path)
        sync(path.parent)


def _move(temp: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp.replace(path)


def put(path: Path, data: bytes | memoryview) -> None:
    """Put a whole file in place: a reader sees the old one or the new one. StorageError if the storage refuses."""
    _write_temp(path, lambda file: file.write(data), lambda temp: temp.replace(path))


def _create(path: Path, data: bytes | memoryview) -> bool:
    """Exclusive creation where there are no hard links. Killed in the middle it leaves a damaged file, which readers report."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def put_exclusive(path: Path, data: bytes | memoryview) -> bool:
    """Put a whole file in place if there is none yet; False, and nothing done, if there is one. StorageError if the storage refuses."""
    created = True

    def link(temp: Path) -> None:
        nonlocal created
        try:
            os.link(temp, path)
        except FileExistsError:
            created = False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            created = _create(path, data)

    _write_temp(path, lambda file: file.write(data), link)
    return created


def link(source: Path, path: Path, *, sha256: str) -> bool | None:
    """Give a file a second name, whole and durable when the call returns; False, and nothing done, if its bytes have another sha256.

    None, and nothing done, where that is impossible: another file system, one without links, a source that cannot be read.
    """
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    with _one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), temp)  # not of a symbolic link itself
            if file_sha256(temp) != sha256:
                return False
            temp.replace(path)
        except OSError:
            return None
        finally:
            temp.unlink(missing_ok=True)  # it is still there if `path` already was this file: rename(2) then does nothing
        sync(path.parent)
    return True


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it exists. StorageError if the storage refuses."""
    with _one_line_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder if it is empty; another process may fill it, or remove it, at any moment."""
    with _one_line_errors(folder):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise


def pretty_json(value: dict[str, Any]) -> bytes:
    """JSON for people and diffs: UTF-8, one line per key and per element of a list of objects, a newline at the end."""
    line = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    output = io.BytesIO()  # a plan may have a million units: no second copy
    for number, (key, inner) in enumerate(value.items()):
        output.write(f"{',' if number else '{'}\n {line(key)}: ".encode())
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for index, element in enumerate(inner):
                output.write(f"{',' if index else '['}\n  {line(element)}".encode())
            output.write(b"\n ]")
        else:
            output.write(line(inner).encode())
    output.write(b"\n}\n" if value else b"{}\n")
    return output.getvalue()


def parse_json(data: bytes, where: str) -> Any:
    """Parse the bytes of a JSON file; DatasetError if they are not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is damaged ({error}); {AGAIN}") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file; DatasetError if it is not JSON."""
    return parse_json(path.read_bytes(), str(path))
