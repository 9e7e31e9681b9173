"""A dataset folder on a local or mounted file system."""

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from textsmooth.schemas.errors import DatasetError, StorageError, UsageError
from textsmooth.schemas.manifest import AGAIN, MANIFEST, PLAN
from textsmooth.stages.storage import atomic
from textsmooth.stages.storage.folder import BLOCK_BYTES, Folder, is_temp

SLIP = 0.8  # how much a name resembles another one, at least, to be taken for a mistyped form of it


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
        atomic.put(self.path / name, data)

    def put_exclusive(self, name: str, data: bytes | memoryview) -> bool:
        return atomic.put_exclusive(self.path / name, data)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            atomic.remove(self.path / name)

    def prune(self, names: Iterable[str]) -> None:
        for name in names:
            atomic.remove_empty(self.path / name)

    def local(self, name: str, *, size: int, sha256: str) -> Path:
        path, found = self.path / name, self.size(name)
        if found is None:
            raise DatasetError(f"{name} is missing in {self.path}; {AGAIN}")
        if found != size:
            raise DatasetError(f"{name} in {self.path} has {found:,} bytes, the manifest says {size:,}; {AGAIN}")
        return path


def overlap(one: Folder, other: Folder) -> bool:
    """Whether two folders are the same, or one lies in the other."""
    a, b = (folder.path.resolve() if isinstance(folder, LocalFolder) else PurePosixPath(str(folder)) for folder in (one, other))
    return a == b or a in b.parents or b in a.parents


def nearest(place: str, *, files: bool = False) -> str | None:
    """The folder that is called nearly so, where nothing lies at `place`; files: or the file."""
    path = Path(place).expanduser()
    cutoff = SLIP if path.parent == Path() or not path.parent.is_dir() else 0.6
    try:
        parents = [path.parent] if path.parent.is_dir() else _alike(path.parent, path.parent.parent.iterdir(), SLIP)
        alike = [other for parent in parents for other in _alike(path, parent.iterdir(), cutoff) if files or other.is_dir()]
    except OSError:  # a folder that cannot be read, or none
        return None
    return alike[0].as_posix() if alike else None


def _alike(path: Path, others: Iterable[Path], cutoff: float) -> list[Path]:
    """Those that are called nearly so, the closest first."""
    by_name = {other.name: other for other in others}
    return [by_name[name] for name in difflib.get_close_matches(path.name, by_name, n=3, cutoff=cutoff)]


def closest(place: str, *, files: bool = False) -> str:
    """Words for an error on `place`, where nothing lies: what is called nearly so, or nothing."""
    near = nearest(place, files=files)
    return f" (closest: {near})" if near else ""


def refuse_slip(place: str, hub: str) -> None:
    """UsageError for a name of the Hub that looks like a folder here: one is called nearly so, or others lie in its first part.

    hub: how the Hub's is written.
    """
    above = Path(place).parent
    if nearest(place) or (above != Path() and above.is_dir() and any(path.is_dir() for path in above.iterdir())):
        raise UsageError(f"no folder {place} here{closest(place)}; for the Hub write {hub}")
