"""The folder of a dataset: on this machine, in an object store, or on the Hub. Files in it are named by relative POSIX paths."""

import contextlib
import difflib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from textsmooth.schemas.config import check_place
from textsmooth.schemas.errors import DatasetError, StorageError, UsageError
from textsmooth.schemas.manifest import AGAIN, MANIFEST, PLAN, Manifest
from textsmooth.stages.storage import atomic as storage
from textsmooth.stages.storage.atomic import parse_json

STORES = ("s3", "gs", "memory")  # URI schemes; memory is fsspec's own, for tests
BLOCK_BYTES = 4 << 20  # of a file that is streamed
NAMED = 3  # datasets that an error names
HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
PAGE = re.compile(
    rf"datasets/(?P<name>{HUB_NAME.pattern})(?:/tree/(?P<revision>refs/[a-z]+/[^/]+|[^/]+)(?P<folder>(?:/[^/]+)*))?", re.ASCII
)
log = logging.getLogger(__name__)


def is_uri(place: str | Path) -> bool:
    """Whether a place is named by a URI, like s3://bucket/folder, and not by a path."""
    return "://" in str(place)


def hub_uri(place: str | Path) -> str | None:
    """The URI of a dataset on the Hub that is called by its name, owner/name, or by the address of its page there.

    None for another place, and for a name that lies here; a Path is never such a name. UsageError for one that its first part, a folder
    here, makes a slip of the pen as well, and for another address.
    """
    if isinstance(place, str) and place.startswith(("https://", "http://")):
        return _of_page(place)
    if not isinstance(place, str) or HUB_NAME.fullmatch(place) is None or os.path.lexists(place):
        return None
    uri, above = f"hf://datasets/{place}", Path(place).parent
    if above.is_dir():
        here = [f"{above}/{path.name}" for path in above.iterdir() if path.is_dir()]
        like = difflib.get_close_matches(place, here, n=1)
        raise UsageError(f"no folder {place} here{f' (closest: {like[0]})' if like else ''}; for the Hub write {uri}")
    return uri


def _of_page(address: str) -> str:
    """The URI of the dataset that a page on the Hub is of, at https://huggingface.co or HF_ENDPOINT."""
    from huggingface_hub import constants

    refused = UsageError(
        f"{address} is not the page of a dataset on the Hub: give {constants.ENDPOINT}/datasets/owner/name, with /tree/REVISION where "
        "needed"
    )
    try:
        asked = urlsplit(address)
    except ValueError:  # of http://[x
        raise refused from None
    for hub in map(urlsplit, ("https://huggingface.co", constants.ENDPOINT)):
        path = asked.path.removeprefix(hub.path)
        found = PAGE.fullmatch(path.strip("/"))
        if asked.netloc == hub.netloc and found is not None:
            revision, folder = found["revision"], unquote(found["folder"] or "")
            at = "" if revision is None or (revision == "main" and not folder) else f"@{revision}"
            return f"hf://datasets/{found['name']}{at}{folder}"
    raise refused


def dataset_name(place: str | Path) -> str:
    """What a dataset is called where it lies: as its repository on the Hub, else by the last part of its path."""
    where = hub_uri(place) or str(place)
    if not is_uri(where):
        return Path(where).resolve().name
    return PurePosixPath(where.partition("@")[0] if where.startswith("hf://") else where).name


class Folder(ABC):
    """Files that are put in place whole, are durable when the call returns, and can be created exclusively.

    Every method raises StorageError, in one line, if the storage says no.
    """

    where: str  # for messages: a path, or a URI
    read_only = False

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


class LocalFolder(Folder):
    """A folder on this machine, or on storage that is mounted here."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def at(self, name: str) -> str:
        return str(self.path / name)

    def exists(self) -> bool:
        try:
            if not self.path.exists():
                return False
        except OSError as error:
            raise StorageError(f"cannot use {self.path}: {error.strerror}; choose another --out") from None
        if not self.path.is_dir():
            raise StorageError(f"{self.path} is a file, --out must be a folder")
        return True

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def stream(self, name: str, size: int, write: Callable[[bytes], object]) -> None:
        with (self.path / name).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                write(block)

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: data for name in names if (data := self._read(name)) is not None}

    def _read(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def files(self, below: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        waiting = [below]
        while waiting:  # scandir, not pathlib: there may be a hundred thousand
            room = waiting.pop()
            try:
                entries = list(os.scandir(self.path / room))
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue
            for entry in entries:
                name = f"{room}/{entry.name}" if room else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                    continue
                with contextlib.suppress(FileNotFoundError):  # another driver tidied up
                    linked = entry.is_symlink() and (self.path / name).exists()  # as in a cache of the Hub
                    found[name] = entry.stat(follow_symlinks=linked).st_size
        return found

    def near(self) -> list[str]:
        rooms = [self.path.parent, *sorted(manifest.parent for manifest in self.path.glob(f"*/{MANIFEST}"))]
        return [str(room) for room in rooms if (room / MANIFEST).is_file() and (room / PLAN).is_file()]

    def empty(self, *, but_temp: bool = False) -> bool:
        return not self.path.is_dir() or all(but_temp and is_temp(path.name) for path in self.path.iterdir())

    def put(self, name: str, data: bytes | memoryview) -> None:
        storage.put(self.path / name, data)

    def put_exclusive(self, name: str, data: bytes | memoryview) -> bool:
        return storage.put_exclusive(self.path / name, data)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            storage.remove(self.path / name)

    def prune(self, names: Iterable[str]) -> None:
        for name in names:
            storage.remove_empty(self.path / name)

    def local(self, name: str, *, size: int, sha256: str) -> Path:
        path, found = self.path / name, self.size(name)
        if found is None:
            raise DatasetError(f"{name} is missing in {self.path}; {AGAIN}")
        if found != size:
            raise DatasetError(f"{name} in {self.path} has {found:,} bytes, the manifest says {size:,}; {AGAIN}")
        return path


def open_folder(place: str | Path, *, reading: bool = False) -> Folder:
    """The folder at a path, or at a URI of STORES; if it is only to be read, also on the Hub.

    There it is called owner/name, hf://datasets/owner/name[@revision][/folder], or as its page. UsageError for a URI of another kind, or
    a name that is neither here nor there.
    """
    check_place("dataset", str(place))
    if place == "":
        raise UsageError("a place is named by nothing: '' (a shell variable that is not set?)")
    scheme = str(place).partition("://")[0]
    uri = hub_uri(place) if reading else None
    if uri is not None or (scheme == "hf" and reading):
        return _on_hub(str(place), uri or str(place))
    if not is_uri(place):
        return LocalFolder(Path(place).expanduser())
    if scheme not in STORES:
        raise UsageError(f"{place}: an object store is named by {', '.join(f'{s}://' for s in STORES if s != 'memory')}, not {scheme}://")
    from textsmooth.stages.storage.store_folder import StoreFolder

    return StoreFolder(str(place))


def _on_hub(name: str, uri: str) -> Folder:
    from textsmooth.stages.hub.folder import HubFolder

    try:
        folder = HubFolder(uri)
    except (DatasetError, UsageError) as error:
        if is_uri(name):
            raise
        raise type(error)(f"no folder {name} here; as a name on the Hub: {error}") from None
    if folder.exists():
        log.info("reading %(name)s (revision %(revision).7s) from %(from)s", folder.found)
    return folder


def overlap(one: Folder, other: Folder) -> bool:
    """Whether two folders are the same, or one lies in the other."""
    a, b = (folder.path.resolve() if isinstance(folder, LocalFolder) else PurePosixPath(str(folder)) for folder in (one, other))
    return a == b or a in b.parents or b in a.parents


def read_json(folder: Folder, name: str) -> object:
    """Parse a JSON file of a folder; DatasetError if it is not JSON, FileNotFoundError if there is none."""
    return parse_json(folder.read(name), folder.at(name))


def read_manifest(place: Folder | Path | str) -> Manifest:
    """The manifest of a smoothed dataset. UsageError if there is no such folder, DatasetError unless it is one, finished and unaltered."""
    folder = place if isinstance(place, Folder) else open_folder(place, reading=True)
    try:
        return Manifest.from_json(read_json(folder, MANIFEST), folder.at(MANIFEST))
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise UsageError(f"no smoothed dataset at {folder}: that is a file; give its folder") from None
    if isinstance(folder, LocalFolder) and not folder.path.is_dir():
        named = not folder.path.is_absolute() and len(folder.path.parts) > 1
        hub = "; on the Hub one is owner/name, hf://datasets/owner/name@revision, or its page" if named else ""
        raise UsageError(f"no smoothed dataset at {folder}: there is no such folder; make one with textsmooth-gen{hub}")
    near = folder.near()
    if near:
        told = f"{', '.join(near[:NAMED])}{f' and {len(near) - NAMED:,} more' if len(near) > NAMED else ''}"
        raise UsageError(f"no smoothed dataset at {folder}: name {'one of ' if len(near) > 1 else ''}{told}")
    made = "textsmooth push" if folder.read_only else "textsmooth-gen, push or pull"
    raise DatasetError(f"{folder} has no {MANIFEST}: not a smoothed dataset, or not finished; run its {made} again")


def is_temp(name: str) -> bool:
    """Whether a file is a temporary one: of a run that goes on, or was killed."""
    return PurePosixPath(name).name.startswith(storage.TEMP_PREFIX)
