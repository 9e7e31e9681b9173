"""The folder of a dataset: on this machine, in an object store, or on the Hub. Files in it are named by relative POSIX paths."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from textsmooth.stages.storage import atomic
from textsmooth.stages.storage.atomic import parse_json

BLOCK_BYTES = 4 << 20  # of a file that is streamed


def is_uri(place: str | Path) -> bool:
    """Whether a place is named by a URI, like s3://bucket/folder, and not by a path."""
    return "://" in str(place)


class Folder(ABC):
    """Files that are put in place whole, are durable when the call returns, and can be created exclusively.

    Every method raises StorageError, in one line, if the storage says no.
    """

    where: str  # for messages: a path, or a URI
    read_only = False
    resumes_downloads = False  # whether `fetch` continues a download that was interrupted

    def __str__(self) -> str:
        return self.where

    @abstractmethod
    def at(self, name: str) -> str:
        """What messages call a file."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is such a folder; in an object store, whether it holds a file."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of that name."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. FileNotFoundError if there is none."""

    @abstractmethod
    def stream(self, name: str, size: int, write: Callable[[bytes], object]) -> None:
        """Write the bytes of a file of this size in order, a block at a time. FileNotFoundError if there is none."""

    @abstractmethod
    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of those files that are there, many at a time."""

    @abstractmethod
    def files(self, below: str = "") -> dict[str, int]:
        """Sizes of all files at any depth in the folder, or in one inside it; temporary ones too."""

    def near(self) -> list[str]:
        """Datasets that may be meant instead, if it is none: the one it lies in, and those that lie in it; none in an object store."""
        return []

    @abstractmethod
    def empty(self, *, but_temp: bool = False) -> bool:
        """Whether there is nothing in the folder, or nothing but temporary files."""

    @abstractmethod
    def put(self, name: str, data: bytes | memoryview) -> None:
        """Put a file in place whole: a reader sees the old one or the new one."""

    @abstractmethod
    def put_exclusive(self, name: str, data: bytes | memoryview) -> bool:
        """Put a file in place whole if there is none yet; False, and nothing done, if there is one."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders with all that is in them, as far as they are there."""

    @abstractmethod
    def prune(self, names: Iterable[str]) -> None:
        """Remove those of the folders that are empty; an object store has none."""

    @abstractmethod
    def local(self, name: str, *, size: int, sha256: str) -> Path:
        """A file on this machine: itself, or its verified copy in the cache. DatasetError if it is missing, or not that file.

        size, sha256: as the manifest has them. Of a file that lies on this machine only the size is compared.
        """

    def fetch(self, name: str, into: Path, *, again: bool = False) -> Path:
        """Download a file into a local folder, continuing an interrupted download; only where `resumes_downloads`.

        again: download it anew. Returns where it lies. FileNotFoundError if there is none.
        """
        raise NotImplementedError(f"{self} has no downloads that can be resumed")


def read_json(folder: Folder, name: str) -> object:
    """Parse a JSON file of a folder; DatasetError if it is not JSON, FileNotFoundError if there is none."""
    return parse_json(folder.read(name), folder.at(name))


def is_temp(name: str) -> bool:
    """Whether a file is a temporary one: of a run that goes on, or was killed."""
    return PurePosixPath(name).name.startswith(atomic.TEMP_PREFIX)
