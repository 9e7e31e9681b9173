"""The folder of a dataset in an object store. There are no folders there, only objects whose path begins alike."""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN
from textsmooth.stages.storage import cache
from textsmooth.stages.storage import object_store as store
from textsmooth.stages.storage.folder import Folder, is_temp
from textsmooth.stages.storage.object_store import Changed, Found, Part, Store
from textsmooth.stages.storage.registry import open_store

READ_AT_ONCE = 1000  # small files
LISTED_ALONE = 8  # names that are looked for one by one when they are removed; more, and the whole folder is listed


class StoreFolder(Folder):
    """A folder at s3:// or gs://. It is its URI: another process that is sent one connects by itself.

    A file is put in place by one request, so there are no temporary ones. UsageError for a URI or a set-up that cannot work.
    """

    def __init__(self, uri: str) -> None:
        store.split_uri(uri)
        if any(char in uri for char in store.GLOB):
            raise UsageError(f"{uri} holds one of {' '.join(store.GLOB)}, which stand for others in a store: name one folder")
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
        return store.ask(self._store, "list", self.where, lambda: self._store.any_below(self._path()))

    def size(self, name: str) -> int | None:
        found = store.ask(self._store, "read", self.at(name), lambda: self._store.head(self._path(name)))
        return None if found is None else found.size

    def read(self, name: str) -> bytes:
        (found,) = store.fetch(self._store, self.at(name), [Part(self._path(name))])
        if isinstance(found, bytes):
            return found
        raise FileNotFoundError(self.at(name))

    def stream(self, name: str, size: int, write: Callable[[bytes], object]) -> None:
        try:
            store.download(self._store, self.at(name), self._path(name), Found(size=size, tag=""), write)
        except Changed:
            raise DatasetError(f"{self.at(name)} has other bytes than the {size:,} of the manifest; {AGAIN}") from None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        wanted = list(names)
        found: dict[str, bytes] = {}
        for first in range(0, len(wanted), READ_AT_ONCE):
            few = wanted[first : first + READ_AT_ONCE]
            got = store.fetch(self._store, self.where, [Part(self._path(name)) for name in few])
            found |= {name: data for name, data in zip(few, got, strict=True) if isinstance(data, bytes)}
        return found

    def files(self, below: str = "") -> dict[str, int]:
        return {name: found.size for name, found in self._listed(below).items()}

    def _listed(self, below: str = "") -> dict[str, Found]:
        start = len(self._path()) + 1
        return {path[start:]: entry for path, entry in store.listing(self._store, self.where, self._path(below)).items()}

    def empty(self, *, but_temp: bool = False) -> bool:
        return all(but_temp and is_temp(name) for name in self.files())

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._put(name, bytes(data), exclusive=False)

    def put_exclusive(self, name: str, data: bytes | memoryview) -> bool:
        body = bytes(data)
        if self._put(name, body, exclusive=True):
            return True
        try:  # ours after all, if the answer to an earlier try was lost
            return self.read(name) == body
        except FileNotFoundError:
            return False

    def _put(self, name: str, body: bytes, *, exclusive: bool) -> bool:
        try:
            return store.ask(self._store, "write", self.at(name), lambda: self._store.put(self._path(name), body, exclusive=exclusive))
        except FileNotFoundError:
            raise UsageError(f"cannot write {self.at(name)}: there is no such bucket; make it, or name another") from None

    def remove(self, names: Iterable[str]) -> None:
        wanted = list(names)
        if len(wanted) <= LISTED_ALONE:
            self._delete([each for name in wanted for each in (name, *self._listed(name))])
            return
        exact, files = set(wanted), self.files()
        self._delete([name for name in files if name in exact or any(str(up) in exact for up in PurePosixPath(name).parents)])

    def _delete(self, names: Iterable[str]) -> None:
        store.remove(self._store, self.where, (self._path(name) for name in names))

    def prune(self, names: Iterable[str]) -> None:
        pass

    def local(self, name: str, *, size: int, sha256: str) -> Path:
        def fill(file: BinaryIO) -> None:
            store.download(self._store, self.at(name), self._path(name), Found(size=size, tag=""), file.write)

        try:
            return cache.local_copy(sha256, size=size, sha256=sha256, fill=fill)
        except FileNotFoundError:
            raise DatasetError(f"{name} is missing in {self}; {AGAIN}") from None
        except (Changed, cache.Damaged):
            raise DatasetError(f"{name} in {self} was altered: not the {size:,} bytes and the sha256 of the manifest; {AGAIN}") from None
