"""Object stores: the client interface, retries, and one-line errors.

A path is `bucket/key`. The libraries' own retries are off where they can be turned off, so that those of retry.py are the only ones.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from textsmooth.schemas.config import check_place
from textsmooth.schemas.errors import StorageError, TextsmoothError, UsageError, first_line
from textsmooth.stages.storage.retry import OBJECT_STORE, RetryPolicy

CONNECT_S = 10.0
SILENCE_S = 30.0  # without a byte
CALL_S = 300.0  # one request, and as much longer as its bytes take at SLOWEST_RATE
SLOWEST_RATE = 100_000  # bytes/s
CONCURRENT = 32  # requests
ONE_PUT = 5 << 30  # bytes; larger files are uploaded in parts
RANGE_BYTES = 16 << 20  # of one request for a part of a file
RANGES_AT_ONCE = 8
DELETED_AT_ONCE = 1000
AGAIN = "see that the store can be reached, then run the same command again: what is finished is kept"
GLOB = "*?["

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """Size of an object in bytes, and a tag that changes with its content (ETag, generation)."""

    size: int
    tag: str


class ByteRange(NamedTuple):
    """Bytes start .. stop of an object, or all of it. With a tag, reading fails if the object has another one by now."""

    path: str
    start: int | None = None
    stop: int | None = None
    tag: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What an error of a store means, and what to do about it."""

    message: str
    advice: str = AGAIN
    temporary: bool = False  # another attempt may succeed
    error_type: type[TextsmoothError] = StorageError


class ObjectChanged(Exception):
    """The object was replaced since its tag or size was read."""


def split_uri(uri: str) -> tuple[str, str]:
    """Scheme and path of a URI. UsageError if it has no bucket, has credentials in it, or is no plain path."""
    scheme, _, rest = uri.partition("://")
    path = rest.rstrip("/")
    bucket = path.partition("/")[0]
    check_place("place", uri)
    if "@" in bucket:
        raise UsageError(f"{scheme}://…@{bucket.rpartition('@')[2]}: credentials do not belong in a URI; use AWS_PROFILE or the like")
    if not bucket:
        raise UsageError(f"{uri} names no bucket: give {scheme}://bucket/folder")
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
        raise UsageError(f"{uri} is no plain path: leave out //, . and ..")
    return scheme, path


class Store:
    """One kind of object store through fsspec; this class itself is fsspec's memory, for tests.

    Methods raise the errors of the library. `request` retries a call and turns what remains into one line, with the help of `explain`.
    """

    scheme = "memory"
    extra = ""  # of `pip install textsmooth[extra]`
    environment: tuple[str, ...] = ()  # prefixes of the environment variables that decide on endpoint and credentials
    retries: RetryPolicy = OBJECT_STORE

    def __init__(self) -> None:
        self.fs = self.connect()

    def connect(self) -> Any:
        import fsspec

        return fsspec.filesystem("memory", use_listings_cache=False)

    def close(self) -> None:
        """Close the connections."""

    def path(self, path: str) -> str:
        """A path in the form that the listings of this store have."""
        return str(self.fs._strip_protocol(f"{self.scheme}://{path}"))

    def tag(self, info: dict[str, Any]) -> str:
        """The tag in an entry of a listing."""
        return str(info.get("created"))

    def head(self, path: str) -> ObjectInfo | None:
        """Size and tag of an object; None if there is no such object."""
        try:
            info = self.fs.info(path)
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else self._info(info)

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(size=int(info["size"]), tag=self.tag(info))

    def list_page(self, path: str, token: str | None) -> tuple[dict[str, ObjectInfo], str | None]:
        """One page of the objects whose path begins with `path/`, and the token of the next page; None for the first and after the last."""
        start = f"{self.path(path)}/"
        try:
            entries = self.fs.find(path, detail=True)
        except FileNotFoundError:
            entries = {}
        return {name: self._info(entry) for name, entry in entries.items() if name.startswith(start) and not name.endswith("/")}, None

    def any_below(self, path: str) -> bool:
        """Whether any object's path begins with `path/`."""
        return bool(self.list_page(path, None)[0])

    def glob(self, pattern: str) -> dict[str, ObjectInfo]:
        """Objects whose path matches a glob pattern of fsspec."""
        entries = self.fs.glob(pattern, detail=True)
        return {name: self._info(entry) for name, entry in entries.items() if entry["type"] == "file"}

    def get(self, ranges: Sequence[ByteRange]) -> list[bytes | Exception]:
        """The bytes of each range, several at a time; FileNotFoundError, ObjectChanged or the library's error for those that failed."""
        return [self._get(byte_range) for byte_range in ranges]

    def _get(self, byte_range: ByteRange) -> bytes | Exception:
        path, start, stop, tag = byte_range
        try:
            if tag is not None and self.tag(self.fs.info(path)) != tag:
                return ObjectChanged(path)
            data: bytes = self.fs.cat_file(path, start=start, end=stop)
            return data
        except Exception as error:
            return error

    def put(self, path: str, data: bytes, *, exclusive: bool) -> bool:
        """Write a whole object, with one request up to ONE_PUT bytes; False if `exclusive` and the object exists."""
        try:
            self.fs.pipe_file(path, data, mode="create" if exclusive else "overwrite", **self.put_options(len(data)))
        except FileExistsError:
            if exclusive:
                return False
            raise
        return True

    def put_options(self, size: int) -> dict[str, Any]:
        """Arguments for the library's `pipe_file`."""
        return {}

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; a missing one is no error."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)

    def explain(self, error: Exception, uri: str) -> Failure | None:
        """What an error of the library means; None if it is not about the store."""
        if isinstance(error, PermissionError):
            return Failure(message=f"access denied ({first_line(error)})", advice="see to the permissions of who is asking")
        if isinstance(error, TimeoutError):
            return Failure(message=f"no answer in time ({first_line(error)})", temporary=True)
        if isinstance(error, ConnectionError):
            return Failure(message=first_line(error), temporary=True)
        return None


def _is_temporary(store: Store, uri: str, error: Exception) -> bool:
    failure = store.explain(error, uri)
    return failure is not None and failure.temporary


def request(store: Store, action: str, uri: str, call: Callable[[], T]) -> T:
    """Call a store, with retries. action: for messages, `read` or `write`.

    Raises StorageError or UsageError in one line. FileNotFoundError passes through, except for a bucket that does not exist.
    """
    retrying = store.retries.retrying(partial(_is_temporary, store, uri))
    try:
        return retrying(call)
    except Exception as error:
        failure = store.explain(error, uri)
        if failure is None:
            raise
        attempts = ""
        if failure.temporary:
            statistics = retrying.statistics
            attempts = f", {statistics['attempt_number']} times in {statistics['delay_since_first_attempt']:.0f} s"
        raise failure.error_type(f"cannot {action} {uri}: {failure.message}{attempts}; {failure.advice}") from error


def read_ranges(store: Store, uri: str, ranges: Sequence[ByteRange]) -> list[bytes | Exception]:
    """The bytes of each range; FileNotFoundError or ObjectChanged for those that do not exist. Attempts count while nothing arrives."""
    results: dict[int, bytes | Exception] = {}

    def read_missing() -> None:
        missing = [i for i in range(len(ranges)) if i not in results]
        error: Exception | None = None
        for i, result in zip(missing, store.get([ranges[i] for i in missing]), strict=True):
            if isinstance(result, bytes | ObjectChanged) or (isinstance(result, FileNotFoundError) and store.explain(result, uri) is None):
                results[i] = result
            else:
                error = result
        if error is not None:
            if len(results) == len(ranges) - len(missing) or not _is_temporary(store, uri, error):
                raise error
            time.sleep(store.retries.wait_s(1))  # some arrived: the rest has all its attempts again

    while len(results) < len(ranges):
        request(store, "read", uri, read_missing)
    return [results[i] for i in range(len(ranges))]


def list_objects(store: Store, uri: str, path: str) -> dict[str, ObjectInfo]:
    """All objects whose path begins with `path/`, by path. Each page of the listing has its own attempts."""
    objects, token = request(store, "list", uri, lambda: store.list_page(path, None))
    while token is not None:
        page, token = request(store, "list", uri, partial(store.list_page, path, token))
        objects |= page
    return objects


def download(store: Store, uri: str, path: str, info: ObjectInfo, write: Callable[[bytes], object]) -> None:
    """Write an object's bytes in order. FileNotFoundError if it does not exist, ObjectChanged if its tag or size is another one."""
    starts = range(0, info.size, RANGE_BYTES)
    ranges = [ByteRange(path, start, min(start + RANGE_BYTES, info.size), info.tag or None) for start in starts]
    for first in range(0, len(ranges), RANGES_AT_ONCE):
        chunk = ranges[first : first + RANGES_AT_ONCE]
        for byte_range, data in zip(chunk, read_ranges(store, uri, chunk), strict=True):
            if isinstance(data, Exception):
                raise data
            if len(data) != (byte_range.stop or 0) - (byte_range.start or 0):
                raise ObjectChanged(path)
            write(data)


def remove_objects(store: Store, uri: str, paths: Iterable[str]) -> None:
    """Remove objects, DELETED_AT_ONCE per request where the store can."""
    remaining = list(paths)
    for first in range(0, len(remaining), DELETED_AT_ONCE):
        request(store, "remove files below", uri, partial(store.delete, remaining[first : first + DELETED_AT_ONCE]))


def last_part(uri: str) -> str:
    """The last component of a URI: the name of a folder or file, or of the bucket."""
    return PurePosixPath(uri.partition("://")[2]).name
