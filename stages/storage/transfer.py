"""Files of a dataset on their way to another folder: compared with the manifest while they are read, put in place whole, many at a time."""

import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import lock_descriptor

from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.errors import ConflictError, DatasetError, StorageError, UsageError
from textsmooth.schemas.manifest import AGAIN, MANIFEST, SHARD, FileEntry
from textsmooth.stages.storage import atomic
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder
from textsmooth.stages.storage.retry import DAMAGED_DOWNLOAD

AT_ONCE = 8  # files on their way
MEMORY_BYTES = 1 << 30  # that files on their way to a store may take together
SCRATCH = f"{atomic.TEMP_PREFIX}hub-"  # folder in a local target: files as they arrive from the Hub, parts of files too
TEMP = re.compile(rf"(.+/)?{re.escape(atomic.TEMP_PREFIX)}[0-9a-f]{{16}}|{re.escape(SCRATCH)}[0-9a-f]{{16}}/.+")  # what is made here

Done = Callable[[FileEntry], None]


class _DamagedDownload(DatasetError):
    """A file arrived that is not the one of the manifest."""


class _NotWritten(Exception):
    """A block that was read could not be written; its cause says why."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The files that are to arrive: those of a folder, and some that were made for the occasion."""

    source: Folder
    made: dict[str, bytes] = field(default_factory=dict)  # path -> bytes, in place of the source's

    def write_to(self, entry: FileEntry, write: Callable[[bytes], object]) -> None:
        """Write a file's bytes in order. DatasetError, after they were written, if they are not what the manifest says."""
        digest, size = hashlib.sha256(), 0

        def take(block: bytes) -> None:
            nonlocal size
            digest.update(block)
            size += len(block)
            try:
                write(block)
            except OSError as error:
                raise _NotWritten from error

        if entry.path in self.made:
            take(self.made[entry.path])
        else:
            try:
                with self._told(entry):
                    self.source.stream(entry.path, entry.bytes, take)
            except _NotWritten as error:  # no fault of the source's
                assert error.__cause__ is not None
                raise error.__cause__ from None
        if size != entry.bytes or digest.hexdigest() != entry.sha256:
            raise self.damaged(entry)

    def bytes(self, entry: FileEntry) -> bytes:
        """A file's bytes, compared with the manifest."""
        into = io.BytesIO()
        self.write_to(entry, into.write)
        return into.getvalue()

    def place(self, entry: FileEntry) -> Path | None:
        """Where a file lies on this machine, not compared with the manifest; None if it lies elsewhere."""
        if entry.path in self.made or not isinstance(self.source, LocalFolder):
            return None
        with self._told(entry):
            return self.source.local(entry.path, size=entry.bytes, sha256=entry.sha256)

    def damaged(self, entry: FileEntry) -> DatasetError:
        """What is said of a file that is not what the manifest says."""
        return DatasetError(f"{self.source.at(entry.path)} is not the {entry.bytes:,} bytes and the sha256 of its manifest; {AGAIN}")

    @contextmanager
    def _told(self, entry: FileEntry) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DatasetError(f"{self.source.at(entry.path)} is missing; {AGAIN}") from None
        except OSError as error:
            raise StorageError(f"cannot read {self.source.at(entry.path)}: {error.strerror or error}; see to it and run again") from error


class Target(Protocol):
    """Where a dataset is to arrive."""

    where: str
    spared: frozenset[str]  # files that may lie there beside a dataset

    def alone(self, waits: Callable[[str], object]) -> AbstractContextManager[None]:
        """While no other process brings something there, where there are locks; waits: is told where, if one does."""

    def manifest(self) -> bytes | None:
        """manifest.json as it is there."""

    def files(self) -> dict[str, int]:
        """Sizes of the files that are there, but for temporary ones."""

    def lacks(self, entries: Iterable[FileEntry], reader: Reader | None) -> list[FileEntry]:
        """Those that are not there with these bytes. reader: has them, which may spare reading what is there."""

    def send(self, entries: list[FileEntry], reader: Reader, done: Done) -> None:
        """Put files in place; done: called for each."""

    def remove(self, names: list[str]) -> None:
        """Remove files."""

    def publish(self, data: bytes, entries: list[FileEntry], reader: Reader) -> None:
        """Put manifest.json in place, when all else is there, if there is none. ConflictError if another was first."""

    def tidy(self) -> None:
        """Remove what is temporary."""

    def finish(self, *, public: bool) -> bool:
        """The dataset is there. public: let all read it. Whether that was private, and is not any more."""


def many(call: Callable[[FileEntry], object], entries: Iterable[FileEntry], done: Done, *, at_once: int = AT_ONCE) -> None:
    """Call for each, several at a time; the first that fails ends it."""
    threads = ThreadPoolExecutor(max_workers=at_once)
    try:
        waiting = {threads.submit(call, entry): entry for entry in entries}
        for future in as_completed(waiting):
            future.result()
            done(waiting.pop(future))
    finally:
        threads.shutdown(cancel_futures=True)


class FolderTarget:
    """A folder on this machine or in an object store."""

    spared: frozenset[str] = frozenset()

    def __init__(self, folder: Folder) -> None:
        self.folder, self.where = folder, folder.where
        self._locked = False

    @contextmanager
    def alone(self, waits: Callable[[str], object]) -> Iterator[None]:
        """While no other process brings something to the same folder on this machine; waits: is told where, if one does.

        A store has no lock, nor have some file systems. UsageError or StorageError if there can be no such folder.
        """
        if not isinstance(self.folder, LocalFolder):
            yield
            return
        descriptor = _opened(self.folder.path)
        try:
            self._locked = _lock(descriptor, lambda: waits(self.where))
            yield
        finally:
            self._locked = False
            os.close(descriptor)

    def manifest(self) -> bytes | None:
        try:
            return self.folder.read(MANIFEST)
        except FileNotFoundError:
            return None

    def files(self) -> dict[str, int]:
        if not self.folder.exists():
            return {}
        return {name: size for name, size in self.folder.files().items() if not TEMP.fullmatch(name)}

    def lacks(self, entries: Iterable[FileEntry], reader: Reader | None) -> list[FileEntry]:
        """On this machine all that is there is read; in a store what has the right size, and no name that carries its content."""
        files, same_names = self.files(), []
        missing = {entry.path: entry for entry in entries}
        looked_at = [entry for entry in missing.values() if files.get(entry.path) == entry.bytes]

        def look(entry: FileEntry) -> None:
            if isinstance(self.folder, LocalFolder):
                same = file_sha256(self.folder.path / entry.path) == entry.sha256
            else:
                same = entry.sha256[:12] in entry.path or hashlib.sha256(self.folder.read(entry.path)).hexdigest() == entry.sha256
            if same:
                same_names.append(entry.path)

        many(look, looked_at, lambda entry: None)
        for path in same_names:
            del missing[path]
        return list(missing.values())

    def send(self, entries: list[FileEntry], reader: Reader, done: Done, *, staged: bool = False) -> None:
        """staged: in a folder on this machine under temporary names, until `unstage`."""
        if not isinstance(self.folder, LocalFolder):
            largest = max((entry.bytes for entry in entries), default=1)
            fit = max(1, min(AT_ONCE, MEMORY_BYTES // max(largest, 1)))
            many(lambda entry: self._put(entry, reader), entries, done, at_once=fit)
            return
        if not os.access(self.where, os.W_OK | os.X_OK):
            raise StorageError(f"nothing can be written into the folder {self.where}: see who may, or name another place")
        scratch = self._scratch() if entries and reader.source.resumes_downloads else None
        many(lambda entry: self._place(entry, reader, scratch, staged=staged), entries, done)
        if scratch is not None:
            atomic.remove(scratch)

    def _put(self, entry: FileEntry, reader: Reader) -> None:
        self.folder.put(entry.path, reader.bytes(entry))

    def _place(self, entry: FileEntry, reader: Reader, scratch: Path | None, *, staged: bool) -> None:
        assert isinstance(self.folder, LocalFolder)
        path = self._staged(entry) if staged else self.folder.path / entry.path
        if scratch is None or entry.path in reader.made:
            atomic.put_stream(path, lambda file: reader.write_to(entry, file.write))
            return
        for attempt in DAMAGED_DOWNLOAD.retrying(lambda error: isinstance(error, _DamagedDownload)):
            with attempt:
                self._download(entry, reader, scratch, path, again=attempt.retry_state.attempt_number > 1)

    def _download(self, entry: FileEntry, reader: Reader, scratch: Path, path: Path, *, again: bool) -> None:
        try:
            downloaded = reader.source.fetch(entry.path, scratch, again=again)
        except OSError as error:
            if error.errno is not None:
                raise StorageError(f"cannot write {path}: {error.strerror}; check the folder, or name another place") from error
            raise DatasetError(f"{entry.path} is missing in {reader.source}; tell its publisher") from None
        if downloaded.stat().st_size != entry.bytes or file_sha256(downloaded) != entry.sha256:
            downloaded.unlink()
            raise _DamagedDownload(str(reader.damaged(entry)))
        atomic.move(downloaded, path)

    def _scratch(self) -> Path:
        """A folder for what arrives from the Hub; where no other process can be at work, one that a killed run has left."""
        assert isinstance(self.folder, LocalFolder)
        left = self._scratches() if self._locked else []
        path = left[0] if left else self.folder.path / f"{SCRATCH}{secrets.token_hex(8)}"
        path.mkdir(exist_ok=True)
        return path

    def _scratches(self) -> list[Path]:
        assert isinstance(self.folder, LocalFolder)
        return sorted(path for path in self.folder.path.glob(f"{SCRATCH}*") if TEMP.fullmatch(f"{path.name}/x") and path.is_dir())

    def staged(self, entries: list[FileEntry]) -> list[FileEntry]:
        """Those that lie there whole under their temporary names."""
        if not isinstance(self.folder, LocalFolder):
            return []
        return [entry for entry in entries if (at := self._staged(entry)).is_file() and file_sha256(at) == entry.sha256]

    def _staged(self, entry: FileEntry) -> Path:
        assert isinstance(self.folder, LocalFolder)
        name = hashlib.sha256(f"{entry.path} {entry.sha256}".encode()).hexdigest()[:16]
        return (self.folder.path / entry.path).with_name(f"{atomic.TEMP_PREFIX}{name}")

    def unstage(self, entries: list[FileEntry]) -> None:
        """Put in place what was sent `staged`, shards first."""
        if isinstance(self.folder, LocalFolder):
            for entry in sorted(entries, key=lambda entry: SHARD.fullmatch(entry.path) is None):
                atomic.move(self._staged(entry), self.folder.path / entry.path)

    def remove(self, names: list[str]) -> None:
        self.folder.remove(names)
        self.folder.prune(sorted({name.rpartition("/")[0] for name in names} - {""}))

    def publish(self, data: bytes, entries: list[FileEntry], reader: Reader) -> None:
        if not self.folder.put_exclusive(MANIFEST, data) and self.manifest() != data:
            raise ConflictError(f"another dataset arrived in {self.where} at the same time; see which one is wanted there")

    def tidy(self) -> None:
        if isinstance(self.folder, LocalFolder):
            for path in self._scratches() if self._locked else ():
                atomic.remove(path)
            self.folder.remove([name for name in self.folder.files() if TEMP.fullmatch(name) and not name.startswith(SCRATCH)])

    def finish(self, *, public: bool) -> bool:
        assert not public
        return False


def _opened(path: Path) -> int:
    """The descriptor of a folder, which is made if there is none. UsageError if it is a file, StorageError if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        for file in filter(os.path.isfile, (path, *path.parents)):
            raise UsageError(f"{file} is a file; name a folder") from None
        raise StorageError(f"cannot use the folder {path} ({error.strerror}): name another place") from error


def _lock(descriptor: int, waits: Callable[[], object]) -> bool:
    """Lock a folder until the descriptor is closed, or the process ends; False on a file system without locks."""
    try:
        if not lock_descriptor(descriptor, blocking=False):
            waits()
            lock_descriptor(descriptor)
    except OSError:
        return False
    return True
