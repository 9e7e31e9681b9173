"""Object stores, asked one thing at a time: what is tried again, what cannot get better, and how both are told in one line.

A path is `bucket/key`. What is tried again is tried TRIES times, with waits that double; the libraries' own retries are off where
they can be turned off, so that these are all there are.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from textsmooth.schemas.config import check_place
from textsmooth.schemas.errors import StorageError, TextsmoothError, UsageError, first_line

TRIES = 8
FIRST_WAIT_S = 1.0  # doubled each time, a random half of it left away
LONGEST_WAIT_S = 20.0
CONNECT_S = 10.0
SILENCE_S = 30.0  # without a byte
CALL_S = 300.0  # one request, and as much longer as its bytes take at LEAST_RATE
LEAST_RATE = 100_000  # bytes/s
CONCURRENT = 32  # requests
ONE_PUT = 5 << 30  # bytes; larger files are uploaded in parts
PART_BYTES = 16 << 20  # of one request for a part of a file
PARTS = 8  # at a time
DELETED_AT_ONCE = 1000
AGAIN = "see that the store can be reached, then run the same command again: what is finished is kept"
GLOB = "*?["

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object: its bytes, and a text that changes with its content."""

    size: int
    tag: str


class Part(NamedTuple):
    """Bytes start .. stop of an object, or all of it; tag: only if the object is still that one."""

    path: str
    start: int | None = None
    stop: int | None = None
    tag: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What a store said, and what to do about it."""

    said: str
    advice: str = AGAIN
    again: bool = False  # whether it may pass
    kind: type[TextsmoothError] = StorageError


class Changed(Exception):
    """The object is another one than was asked for."""


def split_uri(uri: str) -> tuple[str, str]:
    """Scheme and path of a URI. UsageError if it names no bucket, or holds what it must not."""
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
    """One kind of store through fsspec; this one is fsspec's own memory, for tests. Errors are the library's, `ask` tells them."""

    scheme = "memory"
    environment: tuple[str, ...] = ()  # what variables begin with that decide where a store is, and who asks
    tries = TRIES

    def __init__(self) -> None:
        self.fs = self.connect()

    def connect(self) -> Any:
        import fsspec

        return fsspec.filesystem("memory", use_listings_cache=False)

    def close(self) -> None:
        """Let go of connections."""

    def path(self, path: str) -> str:
        """A path as this store's own listings have it."""
        return str(self.fs._strip_protocol(f"{self.scheme}://{path}"))

    def tag(self, info: dict[str, Any]) -> str:
        """The text of an entry of a listing that changes with the content."""
        return str(info.get("created"))

    def head(self, path: str) -> Found | None:
        """An object; None if there is none."""
        try:
            info = self.fs.info(path)
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else self._found(info)

    def _found(self, info: dict[str, Any]) -> Found:
        return Found(size=int(info["size"]), tag=self.tag(info))

    def page(self, path: str, after: str | None) -> tuple[dict[str, Found], str | None]:
        """Some of the objects whose path begins with `path/`, from where another page ended; and where this one does, None at the end."""
        start = f"{self.path(path)}/"
        try:
            found = self.fs.find(path, detail=True)
        except FileNotFoundError:
            found = {}
        return {name: self._found(info) for name, info in found.items() if name.startswith(start) and not name.endswith("/")}, None

    def any_below(self, path: str) -> bool:
        """Whether there is any such object."""
        return bool(self.page(path, None)[0])

    def glob(self, pattern: str) -> dict[str, Found]:
        """Objects whose path a pattern of fsspec matches."""
        found = self.fs.glob(pattern, detail=True)
        return {name: self._found(info) for name, info in found.items() if info["type"] == "file"}

    def get(self, parts: Sequence[Part]) -> list[bytes | Exception]:
        """The bytes of parts, several at a time; in place of those that did not come, why: FileNotFoundError, Changed, or trouble."""
        return [self._get(part) for part in parts]

    def _get(self, part: Part) -> bytes | Exception:
        try:
            if part.tag is not None and self.tag(self.fs.info(part.path)) != part.tag:
                return Changed(part.path)
            data: bytes = self.fs.cat_file(part.path, start=part.start, end=part.stop)
            return data
        except Exception as error:
            return error

    def put(self, path: str, data: bytes, *, exclusive: bool) -> bool:
        """Put an object in place whole, with one request up to ONE_PUT; False if it must be the first and is not."""
        try:
            self.fs.pipe_file(path, data, mode="create" if exclusive else "overwrite", **self.put_options(len(data)))
        except FileExistsError:
            if exclusive:
                return False
            raise
        return True

    def put_options(self, size: int) -> dict[str, Any]:
        """Of the library's `pipe_file`."""
        return {}

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects, as far as they are there."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)

    def trouble(self, error: Exception, uri: str) -> Trouble | None:
        """What an error of the library means; None if it is none of the store's."""
        if isinstance(error, PermissionError):
            return Trouble(said=f"access denied ({first_line(error)})", advice="see to the permissions of who is asking")
        if isinstance(error, TimeoutError):
            return Trouble(said=f"no answer in time ({first_line(error)})", again=True)
        if isinstance(error, ConnectionError):
            return Trouble(said=first_line(error), again=True)
        return None


class Patience:
    """Counts the tries of one thing, and waits between them."""

    def __init__(self, store: Store, what: str, uri: str) -> None:
        self.store, self.what, self.uri = store, what, uri
        self.tries, self.started = 0, time.monotonic()

    def wait(self, error: Exception) -> None:
        """Wait for the next try, or raise what the error means: at once if it cannot get better, or it was the last try."""
        trouble = self.store.trouble(error, self.uri)
        if trouble is None:
            raise error
        self.tries += 1
        if trouble.again and self.tries < self.store.tries:
            time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (self.tries - 1)) * random.uniform(0.5, 1.0))
            return
        tried = f", {self.tries} times in {time.monotonic() - self.started:.0f} s" if trouble.again else ""
        raise trouble.kind(f"cannot {self.what} {self.uri}: {trouble.said}{tried}; {trouble.advice}") from error


def ask(store: Store, what: str, uri: str, call: Callable[[], _Result]) -> _Result:
    """What a call of a store gives, tried again where that can help. what: for messages, read or write.

    Raises StorageError or UsageError in one line; FileNotFoundError passes through, but for a bucket that is not there.
    """
    patience = Patience(store, what, uri)
    while True:
        try:
            return call()
        except Exception as error:
            if isinstance(error, FileNotFoundError) and store.trouble(error, uri) is None:
                raise
            patience.wait(error)


def fetch(store: Store, uri: str, parts: Sequence[Part]) -> list[bytes | Exception]:
    """The bytes of parts; FileNotFoundError or Changed in place of those that cannot be had. Tries count while nothing comes."""
    found: dict[int, bytes | Exception] = {}
    patience = Patience(store, "read", uri)
    while len(found) < len(parts):
        left = [i for i in range(len(parts)) if i not in found]
        failed: Exception | None = None
        for i, got in zip(left, store.get([parts[i] for i in left]), strict=True):
            final = isinstance(got, bytes | Changed) or (isinstance(got, FileNotFoundError) and store.trouble(got, uri) is None)
            if final:
                found[i] = got
            else:
                assert isinstance(got, Exception)
                failed = got
        if failed is not None:
            if len(left) > len(parts) - len(found):
                patience.tries = 0  # some came
            patience.wait(failed)
    return [found[i] for i in range(len(parts))]


def listing(store: Store, uri: str, path: str) -> dict[str, Found]:
    """All objects whose path begins with `path/`, by path; asked for by pages, each tried again for itself."""
    found, after = ask(store, "list", uri, lambda: store.page(path, None))
    while after is not None:
        more, after = ask(store, "list", uri, partial(store.page, path, after))
        found |= more
    return found


def ranges(found: Found, path: str) -> list[Part]:
    """The parts in which an object is fetched."""
    starts = range(0, found.size, PART_BYTES)
    return [Part(path, start, min(start + PART_BYTES, found.size), found.tag or None) for start in starts]


def download(store: Store, uri: str, path: str, found: Found, write: Callable[[bytes], object]) -> None:
    """Write an object's bytes in order. FileNotFoundError or Changed if it is not there, or not that one any more."""
    parts = ranges(found, path)
    for first in range(0, len(parts), PARTS):
        few = parts[first : first + PARTS]
        for part, got in zip(few, fetch(store, uri, few), strict=True):
            if isinstance(got, Exception):
                raise got
            if len(got) != (part.stop or 0) - (part.start or 0):
                raise Changed(path)
            write(got)


def remove(store: Store, uri: str, paths: Iterable[str]) -> None:
    """Remove objects, DELETED_AT_ONCE with a request where the store can."""
    some = list(paths)
    for first in range(0, len(some), DELETED_AT_ONCE):
        few = some[first : first + DELETED_AT_ONCE]
        ask(store, "remove files below", uri, partial(store.delete, few))


def last_part(uri: str) -> str:
    """What a URI ends with: the name of a folder or file, or of the bucket."""
    return PurePosixPath(uri.partition("://")[2]).name
