"""A dataset folder in an object store: the objects whose path begins with the folder's."""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN
from textsmooth.stages.storage import cache
from textsmooth.stages.storage.folder import Folder, is_temp
from textsmooth.stages.storage.object_store import (
    GLOB,
    ByteRange,
    ObjectChanged,
    ObjectInfo,
    Store,
    download,
    list_objects,
    read_ranges,
    remove_objects,
    request,
    split_uri,
)
from textsmooth.stages.storage.registry import open_store

READ_AT_ONCE = 1000  # small files
LISTED_ALONE = 8  # to remove at most so many names, each is listed; for more, the whole folder is


class StoreFolder(Folder):
    """A folder at s3:// or gs://. It holds its URI alone: another process that unpickles it makes its own connection.

    One request puts a file in place, so there are no temporary files. UsageError for a malformed URI or an unusable configuration.
    """

    def __init__(self, uri: str) -> None:
        split_uri(uri)
        if any(char in uri for char in GLOB):
            raise UsageError(f"{uri} holds one of {' '.join(GLOB)}, which are wildcards: name one folder")
        self.where = uri.rstrip("/")
        open_store(self.where)

    @property
    def _store(self) -> Store:
        return open_store(self.where)[0]

    def _path(self, name: str = "") -> str:
        root = open_store(self.where)[1]
        return f"{root}/{name}" if name else root

    def at(self, name: str) -> str:
        return f"{self.where}/{name}"

    def exists(self) -> bool:
        return request(self._store, "list", self.where, lambda: self._store.any_below(self._path()))

    def size(self, name: str) -> int | None:
        info = request(self._store, "read", self.at(name), lambda: self._store.head(self._path(name)))
        return None if info is None else info.size

    def read(self, name: str) -> bytes:
        (data,) = read_ranges(self._store, self.at(name), [ByteRange(self._path(name))])
        if isinstance(data, bytes):
            return data
        raise FileNotFoundError(self.at(name))

    def stream(self, name: str, size: int, write: Callable[[bytes], object]) -> None:
        try:
            download(self._store, self.at(name), self._path(name), ObjectInfo(size=size, tag=""), write)
        except ObjectChanged:
            raise DatasetError(f"{self.at(name)} has other bytes than the {size:,} of the manifest; {AGAIN}") from None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        remaining = list(names)
        contents: dict[str, bytes] = {}
        for first in range(0, len(remaining), READ_AT_ONCE):
            chunk = remaining[first : first + READ_AT_ONCE]
            results = read_ranges(self._store, self.where, [ByteRange(self._path(name)) for name in chunk])
            contents |= {name: data for name, data in zip(chunk, results, strict=True) if isinstance(data, bytes)}
        return contents

    def files(self, below: str = "") -> dict[str, int]:
        return {name: info.size for name, info in self._listed(below).items()}

    def _listed(self, below: str = "") -> dict[str, ObjectInfo]:
        start = len(self._path()) + 1
        return {path[start:]: info for path, info in list_objects(self._store, self.where, self._path(below)).items()}

    def empty(self, *, but_temp: bool = False) -> bool:
        return all(but_temp and is_temp(name) for name in self.files())

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._put(name, bytes(data), exclusive=False)

    def put_exclusive(self, name: str, data: bytes | memoryview) -> bool:
        body = bytes(data)
        if self._put(name, body, exclusive=True):
            return True
        try:  # this put created it after all, if the answer to an earlier attempt was lost
            return self.read(name) == body
        except FileNotFoundError:
            return False

    def _put(self, name: str, body: bytes, *, exclusive: bool) -> bool:
        try:
            return request(self._store, "write", self.at(name), lambda: self._store.put(self._path(name), body, exclusive=exclusive))
        except FileNotFoundError:
            raise UsageError(f"cannot write {self.at(name)}: there is no such bucket; make it, or name another") from None

    def remove(self, names: Iterable[str]) -> None:
        removed = list(dict.fromkeys(names))
        if len(removed) <= LISTED_ALONE:
            self._delete([path for name in removed for path in (name, *self._listed(name))])
        else:
            below = set(removed)
            self._delete([name for name in self.files() if any(str(path) in below for path in (name, *PurePosixPath(name).parents))])

    def _delete(self, names: Iterable[str]) -> None:
        remove_objects(self._store, self.where, (self._path(name) for name in names))

    def prune(self, names: Iterable[str]) -> None:
        pass

    def local(self, name: str, *, size: int, sha256: str) -> Path:
        def fill(file: BinaryIO) -> None:
            download(self._store, self.at(name), self._path(name), ObjectInfo(size=size, tag=""), file.write)

        try:
            return cache.local_copy(sha256, size=size, sha256=sha256, fill=fill)
        except FileNotFoundError:
            raise DatasetError(f"{name} is missing in {self}; {AGAIN}") from None
        except (ObjectChanged, cache.Damaged):
            raise DatasetError(f"{name} in {self} was altered: not the {size:,} bytes and the sha256 of the manifest; {AGAIN}") from None
