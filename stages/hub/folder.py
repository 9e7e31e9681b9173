"""The folder of a dataset in a repository on the Hub, at one commit: read, never written. Files lie in the cache of huggingface_hub."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

from textsmooth.schemas.errors import CorpusError, DatasetError, StorageError, TextsmoothError, UsageError
from textsmooth.schemas.manifest import MANIFEST, PLAN, SHA256, Manifest
from textsmooth.stages.hub.errors import RETRY_STATUSES, Repo, Unreachable, ask, chain, status_of
from textsmooth.stages.hub.file import DOWNLOAD_FIRST
from textsmooth.stages.hub.names import OWNED_NAME
from textsmooth.stages.storage import atomic
from textsmooth.stages.storage.atomic import parse_json
from textsmooth.stages.storage.folder import BLOCK_BYTES, Folder
from textsmooth.stages.storage.retry import HUB, NO_RETRY, RetryPolicy

T = TypeVar("T")
URI = re.compile(rf"hf://datasets/(?P<name>{OWNED_NAME})(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?P<folder>(?:/[^/]+)*)")
NAMED = 8  # revisions that a message names
LOOKED_INTO = 50  # folders of a repository that is no dataset itself
OPTION = "hf://"  # by which messages know that no option has named the repository

_whole: set[tuple[str, int, int]] = set()  # copies that were compared with their sha256: path, inode, time


class HubFolder(Folder):
    """A folder at hf://datasets/owner/name[@revision][/folder]; the revision (default: main) is resolved to a commit once.

    Where the Hub cannot be reached, or fails, what is in the cache is read. UsageError for a URI that names none, or to write; DatasetError
    if it cannot be had.
    """

    read_only = True
    resumes_downloads = True

    def __init__(self, uri: str) -> None:
        found = URI.fullmatch(uri.rstrip("/"))
        if found is None or ".." in found["folder"].split("/"):
            raise UsageError(f"{uri}: a dataset on the Hub is hf://datasets/owner/name, with @revision and the folder in it where needed")
        revision = unquote(found["revision"]) if found["revision"] else None
        if revision and ".." in revision:
            raise UsageError(f"{uri}: {revision!r} is no branch, tag or commit")
        self.where = uri.rstrip("/")
        self._repo = Repo(kind="dataset", name=found["name"], revision=revision, option=OPTION)
        self._prefix = f"{found['folder'][1:]}/" if found["folder"] else ""
        self._revision = revision
        self._unreached: str | None = None  # why the cache was read
        self._without: str | None = None  # a commit that has no manifest
        self._commit = self._resolved()

    @property
    def _inside(self) -> str | None:
        """The folder in the repository; None if it is all of it."""
        return self._prefix.rstrip("/") or None

    @property
    def found(self) -> dict[str, str]:
        """What is read: name, revision (its commit), from (the Hub, or the cache and why)."""
        from huggingface_hub import constants

        place = constants.ENDPOINT if self._unreached is None else f"the cache: {self._unreached}"
        return {"name": self._repo.name, "revision": str(self._commit), "from": place}

    def _resolved(self) -> str | None:
        """The commit that the revision is at, or was at when the Hub last answered; None if it has no manifest."""
        from huggingface_hub import try_to_load_from_cache

        name, inside = self._repo.name, self._prefix + MANIFEST
        with self._told(self.at(MANIFEST)):
            found = ask(self._repo, lambda: try_to_load_from_cache(name, inside, repo_type="dataset", revision=self._revision))
            cached = self._snapshot(found) if isinstance(found, str) else None
            if cached is not None and cached.name == self._revision:  # a commit stays what it is
                return cached.name
            try:
                commit = self._head(policy=HUB if cached is None else NO_RETRY)
            except (Unreachable, CorpusError) as error:
                self._unreached = _no_answer(error)
                if cached is None or self._unreached is None:
                    raise
                return cached.name
            try:
                self._keep(self._snapshot(self._fetch(MANIFEST, revision=commit)))
            except FileNotFoundError:
                self._without = commit
                return None
        return commit

    def _head(self, *, policy: RetryPolicy) -> str:
        """The commit that the revision is at."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import RevisionNotFoundError

        arguments: dict[str, Any] = {"repo_type": "dataset", "expand": ["sha"], "timeout": float(constants.HF_HUB_ETAG_TIMEOUT)}
        try:
            info = ask(self._repo, lambda: HfApi().repo_info(self._repo.name, revision=self._revision, **arguments), policy=policy)
        except UsageError as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                raise UsageError(f"{self._repo} has no revision {self._revision!r}; {self._revisions()}") from None
            raise
        return str(info.sha)

    def _snapshot(self, manifest: str | Path) -> Path:
        """The folder of a commit in the cache."""
        return Path(manifest).parents[self._prefix.count("/")]

    def _keep(self, snapshot: Path) -> None:
        """Note in the cache where the revision is, as huggingface_hub does for a file that it fetches by branch or tag."""
        note = snapshot.parents[1] / "refs" / (self._revision or "main")
        with suppress(OSError, StorageError):  # a cache that is only read
            if snapshot.name != self._revision and not (note.is_file() and note.read_text() == snapshot.name):
                atomic.put(note, snapshot.name.encode())

    def _revisions(self) -> str:
        """Which ones there are."""
        from huggingface_hub import HfApi

        found = ask(self._repo, lambda: HfApi().list_repo_refs(self._repo.name, repo_type="dataset"))
        names = [ref.name for ref in (*found.branches, *found.tags)]
        return f"it has {', '.join(names[:NAMED])}{', …' * (len(names) > NAMED)}; a commit is named by all 40 characters of its hash"

    def _fetch(self, name: str, *, revision: str | None, again: bool = False) -> Path:
        """A file in the cache, fetched if it is not there. FileNotFoundError if there is none."""
        from huggingface_hub import hf_hub_download

        inside = self._prefix + name

        def get() -> str:
            return str(hf_hub_download(self._repo.name, inside, repo_type="dataset", revision=revision, force_download=again))

        with self._told(self.at(name)):
            return Path(self._ask(get, inside))

    def _ask(self, call: Callable[[], T], inside: str) -> T:
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return ask(self._repo, call)
        except UsageError as error:
            if isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise FileNotFoundError(inside) from None
            raise

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except CorpusError as error:
            raise DatasetError(str(error)) from None
        except Unreachable as error:
            raise DatasetError(f"{error}, and {what} is not in the cache: {DOWNLOAD_FIRST}") from None

    def at(self, name: str) -> str:
        return f"{self.where}/{name}"

    def exists(self) -> bool:
        return self._commit is not None

    def size(self, name: str) -> int | None:
        return self.files().get(name)

    def read(self, name: str) -> bytes:
        if self._commit is None:
            raise FileNotFoundError(self.at(name))
        return self._fetch(name, revision=self._commit).read_bytes()

    def stream(self, name: str, size: int, write: Callable[[bytes], object]) -> None:
        with self._fetch(name, revision=self._commit).open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                write(block)

    def fetch(self, name: str, into: Path, *, again: bool = False) -> Path:
        """A file put into a folder on this machine, or the rest of it where a part is there. FileNotFoundError if there is none.

        again: not what came before. huggingface_hub leaves marks in the folder: remove it when all files are out of it.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        inside = self._prefix + name
        cached = try_to_load_from_cache(self._repo.name, inside, repo_type="dataset", revision=self._commit)
        if isinstance(cached, str) and not again:
            place = into / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cached, place)
            return place

        def get() -> str:
            arguments = {"repo_type": "dataset", "revision": self._commit, "local_dir": into, "force_download": again}
            return str(hf_hub_download(self._repo.name, inside, **arguments))

        with self._told(self.at(name)):
            return Path(self._ask(get, inside))

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        found = {}
        for name in names:
            try:
                found[name] = self.read(name)
            except FileNotFoundError:
                continue
        return found

    def files(self, below: str = "") -> dict[str, int]:
        if self._commit is None:
            return {}
        try:
            found = self._promised() if self._unreached else self._listed()
        except Unreachable:
            found = self._promised()
        start = f"{below}/" if below else ""
        return {name: size for name, size in found.items() if name.startswith(start)}

    def near(self) -> list[str]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFolder

        if self._without is None:
            return []
        api, name, arguments = HfApi(), self._repo.name, {"repo_type": "dataset", "revision": self._without}

        def get() -> list[str]:
            rooms = [entry.path for entry in api.list_repo_tree(name, self._inside, **arguments) if isinstance(entry, RepoFolder)]
            marks = [f"{room}/{mark}" for room in rooms[:LOOKED_INTO] for mark in (MANIFEST, PLAN)]
            present = {entry.path for entry in api.get_paths_info(name, marks, **arguments)} if marks else set()
            return [room for room in rooms if {f"{room}/{MANIFEST}", f"{room}/{PLAN}"} <= present]

        with suppress(Unreachable, TextsmoothError):  # a courtesy
            return [self.at(room.removeprefix(self._prefix)) for room in ask(self._repo, get)]
        return []

    def _listed(self) -> dict[str, int]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        def get() -> list[RepoFile]:
            tree = HfApi().list_repo_tree(self._repo.name, self._inside, recursive=True, revision=self._commit, repo_type="dataset")
            try:
                return [entry for entry in tree if isinstance(entry, RepoFile)]
            except EntryNotFoundError:
                return []

        try:
            return {entry.path.removeprefix(self._prefix): entry.size for entry in ask(self._repo, get)}
        except CorpusError as error:
            raise DatasetError(str(error)) from None

    def _promised(self) -> dict[str, int]:
        """What the manifest says there is: without a connection nobody else does."""
        manifest = Manifest.from_json(parse_json(self.read(MANIFEST), self.at(MANIFEST)), self.at(MANIFEST))
        return {shard.path: shard.bytes for shard in manifest.shards} | {file.path: file.bytes for file in manifest.files}

    def empty(self, *, but_temp: bool = False) -> bool:
        return not self.files()

    def local(self, name: str, *, size: int, sha256: str) -> Path:
        assert SHA256.fullmatch(sha256)
        for again in (False, True):
            try:
                path = self._fetch(name, revision=self._commit, again=again)
            except FileNotFoundError:
                raise DatasetError(f"{name} is missing in {self}; tell who has published it") from None
            if _is_whole(path, size, sha256):
                return path
        raise DatasetError(f"{name} in {self} is not the {size:,} bytes and the sha256 of the manifest; tell who has published it")

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._refuse()

    def put_exclusive(self, name: str, data: bytes | memoryview) -> bool:
        self._refuse()

    def remove(self, names: Iterable[str]) -> None:
        self._refuse()

    def prune(self, names: Iterable[str]) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UsageError(f"{self} is read, not written: name a folder on this machine or in an object store")


def _no_answer(error: Exception) -> str | None:
    """Why the Hub has not answered; None if it has."""
    from huggingface_hub import constants
    from huggingface_hub.utils import httpx

    if isinstance(error, Unreachable):
        return str(error)
    for cause in chain(error):
        status = status_of(cause)
        if status is not None and (status >= 500 or status in RETRY_STATUSES):
            return f"{constants.ENDPOINT} failed with {status}"
        if isinstance(cause, httpx.TransportError):
            return f"no answer from {constants.ENDPOINT} ({type(cause).__name__})"
    return None


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    found = path.stat()
    mark = (str(path), found.st_ino, found.st_mtime_ns)
    if found.st_size != size:
        return False
    if mark not in _whole:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return False
        _whole.add(mark)
    return True
