"""A repository on the Hub as the place where a dataset is to arrive: files in commits of some hundred, manifest.json in the last one.

Transfers are huggingface_hub's: by Xet where the package hf_xet is there, else, and with HF_HUB_DISABLE_XET=1, by LFS. What was
transferred is kept by the Hub until it is committed, so that a second run sends only what is missing.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from textsmooth.schemas.errors import ConflictError, DatasetError, StorageError, TextsmoothError, UsageError, first_line
from textsmooth.schemas.manifest import CARD, MANIFEST, FileEntry, Manifest
from textsmooth.schemas.printable import printable
from textsmooth.stages.hub.errors import Repo, Unreachable, ask, chain, invalid_name, status_of
from textsmooth.stages.hub.folder import URI, HubFolder
from textsmooth.stages.storage.atomic import parse_json
from textsmooth.stages.storage.retry import HUB_MANIFEST
from textsmooth.stages.storage.transfer import Done, Reader

T = TypeVar("T")
COMMIT_FILES, COMMIT_BYTES = 250, 5 << 30  # of one commit
GROUP_FILES, GROUP_BYTES = 25, 256 << 20  # transferred together; in memory where the source is not on this machine
FOLDER_FILES = 10_000  # the Hub wants fewer in a folder
BUSY = (409, 412)  # another commit was made meanwhile
AGAIN = "run the same command again: what has arrived is kept"
TOKEN = "set HF_TOKEN, or run `hf auth login`"


class HubTarget:
    """Branch main of a dataset repository. UsageError for a URI with a revision, or a folder in the repository."""

    spared = frozenset({".gitattributes", ".gitignore", "LICENSE", CARD})

    def __init__(self, uri: str, *, public: bool = False) -> None:
        from huggingface_hub import HfApi, constants

        from textsmooth.schemas.version import VERSION

        found = URI.fullmatch(uri.rstrip("/"))
        if found is None or found["revision"] or found["folder"]:
            raise UsageError(f"{uri}: a dataset is pushed to owner/name or hf://datasets/owner/name, to its branch main")
        self.name = found["name"]
        self.where = f"hf://datasets/{self.name}"
        self.page = f"{constants.ENDPOINT}/datasets/{self.name}"
        self.public = public
        self.private: bool | None = None  # None: there is no such repository yet
        self._repo = Repo(kind="dataset", name=self.name, revision=None, option="hf://")
        self._api = HfApi(library_name="textsmooth", library_version=VERSION)
        self._head = ""  # commit of the listing
        self._listed: dict[str, Any] = {}  # RepoFile by path

    def open(self) -> None:
        """Look at the repository. StorageError without a token, or if it cannot be reached; UsageError if it is public unasked."""
        from huggingface_hub import constants, get_token
        from huggingface_hub.errors import RepositoryNotFoundError

        if get_token() is None:
            raise StorageError(f"no token to write to the Hub: {TOKEN}")
        try:
            info = self._ask(lambda: self._api.repo_info(self.name, repo_type="dataset", timeout=float(constants.HF_HUB_ETAG_TIMEOUT)))
        except StorageError as error:
            if not any(isinstance(cause, RepositoryNotFoundError) for cause in chain(error)):
                raise
            return
        self.private, self._head = bool(info.private), str(info.sha)
        if not (self.private or self.public):
            raise UsageError(f"{self.name} is public, all read what is pushed there: add --public, or make it private at {self.page}")
        self._list()

    def _create(self) -> None:
        """Make the repository, if there is none."""
        if self.private is None:
            self._ask(lambda: self._api.create_repo(self.name, repo_type="dataset", private=not self.public, exist_ok=True))
            self.private = not self.public

    def finish(self, *, public: bool) -> bool:
        if not (public and self.private):
            return False
        self._ask(lambda: self._api.update_repo_settings(self.name, repo_type="dataset", private=False))
        self.private = False
        return True

    def _look_again(self) -> None:
        self._head = str(self._ask(lambda: self._api.repo_info(self.name, repo_type="dataset")).sha)
        self._list()

    def _list(self) -> None:
        self._listed = self._tree(self._head)

    def _tree(self, commit: str) -> dict[str, Any]:
        from huggingface_hub.hf_api import RepoFile

        def get() -> dict[str, Any]:
            tree = self._api.list_repo_tree(self.name, recursive=True, revision=commit, repo_type="dataset")
            return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

        return self._ask(get)

    def check_history(self, dataset: str, data: bytes, entries: list[FileEntry], reader: Reader) -> None:
        """ConflictError if the repository is private, and making it public would show more than this dataset: it keeps what was replaced.

        dataset: its digest. data: its manifest.json. One made again, with the same digest, counts as the same.
        """
        if not self.private:
            return
        whole = FileEntry(path=MANIFEST, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        own = {entry.path: entry for entry in (*entries, whole)}
        made = Reader(source=reader.source, made={**reader.made, MANIFEST: data})
        seen = {(path, found.blob_id) for path, found in self._listed.items()} if self._holds(dataset) else set()
        for commit in self._commits():
            for path, found in self._tree(commit).items():
                if path in self.spared or (path, found.blob_id) in seen:
                    continue
                if path not in own or not self._is(found, own[path], made):
                    raise ConflictError(
                        f"{self.name} is private and its history has another dataset or other files ({printable(path)}), which --public "
                        f"would let all read: push to a new repository, or delete this one at {self.page}/settings first"
                    )
                seen.add((path, found.blob_id))

    def _holds(self, dataset: str) -> bool:
        data, where = self.manifest(), f"{self.where}/{MANIFEST}"
        try:
            return data is not None and Manifest.from_json(parse_json(data, where), where).dataset == dataset
        except DatasetError:
            return False

    def _commits(self) -> list[str]:
        """All commits of branches, tags and pull requests; what the Hub converts is made from these."""

        def get() -> list[str]:
            refs = self._api.list_repo_refs(self.name, repo_type="dataset", include_pull_requests=True)
            heads = {ref.target_commit for ref in (*refs.branches, *refs.tags, *(refs.pull_requests or ()))}
            return [commit.commit_id for head in sorted(heads) for commit in log(self.name, repo_type="dataset", revision=head)]

        log = self._api.list_repo_commits
        return list(dict.fromkeys(self._ask(get)))

    def alone(self, waits: Callable[[str], object]) -> AbstractContextManager[None]:
        return nullcontext()  # `publish` compares what is there

    def manifest(self) -> bytes | None:
        return HubFolder(f"{self.where}@{self._head}").read(MANIFEST) if MANIFEST in self._listed else None

    def files(self) -> dict[str, int]:
        return {name: entry.size for name, entry in self._listed.items()}

    def lacks(self, entries: Iterable[FileEntry], reader: Reader | None) -> list[FileEntry]:
        return [entry for entry in entries if entry.path not in self._listed or not self._is(self._listed[entry.path], entry, reader)]

    def _is(self, found: Any, entry: FileEntry, reader: Reader | None) -> bool:
        from huggingface_hub.utils.sha import git_hash

        if found.size != entry.bytes:
            return False
        if found.lfs:
            return bool(found.lfs.sha256 == entry.sha256)
        if reader is not None:
            return bool(found.blob_id == git_hash(reader.bytes(entry)))
        data = HubFolder(f"{self.where}@{self._head}").read(entry.path)
        return hashlib.sha256(data).hexdigest() == entry.sha256

    def send(self, entries: list[FileEntry], reader: Reader, done: Done) -> None:
        self._create()
        batch: dict[str, Any] = {}
        size = 0
        for group in _groups(entries):
            operations = [self._operation(entry, reader) for entry in group]
            self._transfer(operations)
            for entry, operation in zip(group, operations, strict=True):
                if operation.upload_info.sha256.hex() != entry.sha256:  # it was read while it was sent; nothing refers to it yet
                    raise reader.damaged(entry)
                batch[entry.path] = operation
                size += entry.bytes
                done(entry)
            if len(batch) >= COMMIT_FILES or size >= COMMIT_BYTES:
                self._commit(batch)
                batch, size = {}, 0
        if batch:
            self._commit(batch)

    def _transfer(self, operations: list[Any]) -> None:
        from huggingface_hub.utils._runtime import is_xet_available

        try:
            self._ask(lambda: self._api.preupload_lfs_files(self.name, operations, repo_type="dataset"))
        except (OSError, RuntimeError, ValueError) as error:  # hf_xet has no errors of its own; what is the Hub's was told
            if isinstance(error, TextsmoothError) or not is_xet_available():
                raise
            raise StorageError(f"the transfer by Xet failed ({first_line(error)}): {AGAIN}; or set HF_HUB_DISABLE_XET=1") from error

    def _operation(self, entry: FileEntry, reader: Reader) -> Any:
        from huggingface_hub import CommitOperationAdd

        return CommitOperationAdd(entry.path, reader.place(entry) or reader.bytes(entry))

    def _commit(self, batch: dict[str, Any], *, parent: str | None = None) -> None:
        """Commit operations by path; again without those that an earlier try has brought there, if its answer was lost."""
        tried = False

        def commit() -> None:
            nonlocal tried
            arrived = self._arrived(batch) if tried else set()
            left = [operation for path, operation in batch.items() if path not in arrived]
            tried = True
            if left:
                message = f"Add {len(left)} file{'s' * (len(left) > 1)} of a smoothed dataset"
                self._api.create_commit(self.name, left, commit_message=message, repo_type="dataset", parent_commit=parent)

        self._ask(commit, retry=BUSY if parent is None else ())

    def _arrived(self, batch: dict[str, Any]) -> set[str]:
        found = self._api.get_paths_info(self.name, list(batch), repo_type="dataset")
        ids = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in found}
        return {path for path, operation in batch.items() if ids.get(path) == operation._local_oid}

    def remove(self, names: list[str]) -> None:
        from huggingface_hub import CommitOperationDelete

        for first in range(0, len(names), COMMIT_FILES):
            some = names[first : first + COMMIT_FILES]

            def commit(some: list[str] = some) -> None:
                present = [found.path for found in self._api.get_paths_info(self.name, some, repo_type="dataset")]
                operations = [CommitOperationDelete(name, is_folder=False) for name in present]
                message = f"Remove {len(present)} file{'s' * (len(present) > 1)} of another smoothed dataset"
                if present:
                    self._api.create_commit(self.name, operations, commit_message=message, repo_type="dataset")

            self._ask(commit, retry=BUSY)
        for name in names:
            self._listed.pop(name, None)

    def publish(self, data: bytes, entries: list[FileEntry], reader: Reader) -> None:
        from huggingface_hub import CommitOperationAdd

        def attempt() -> None:
            self._look_again()
            present = self.manifest()
            if present is not None and present != data:
                raise ConflictError(f"another dataset arrived in {self.where} at the same time; see {self.page} which one is wanted there")
            lost = self.lacks(entries, reader)
            if lost:
                raise StorageError(
                    f"{len(lost)} files are not in {self.where} though they were sent, the first is {lost[0].path}: see whether a "
                    ".gitignore there leaves them out, or somebody removes them, then run the same command again"
                )
            if present is None:
                operation = CommitOperationAdd(MANIFEST, data)
                self._transfer([operation])
                self._commit({MANIFEST: operation}, parent=self._head)  # fails if that is not the latest commit any more

        def other_commit(error: Exception) -> bool:
            return isinstance(error, StorageError) and any(status_of(cause) in BUSY for cause in chain(error))

        HUB_MANIFEST.retrying(other_commit)(attempt)

    def tidy(self) -> None:
        pass

    def _ask(self, call: Callable[[], T], *, retry: tuple[int, ...] = ()) -> T:
        try:
            with _without_bars(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the Hub finds odd in a card
                return ask(self._repo, call, explain=_explain, retry=retry)
        except Unreachable as error:
            raise StorageError(f"{error}; then {AGAIN}") from error


def _groups(entries: list[FileEntry]) -> Iterator[list[FileEntry]]:
    group: list[FileEntry] = []
    for entry in entries:
        if group and (len(group) == GROUP_FILES or sum(e.bytes for e in group) + entry.bytes > GROUP_BYTES):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without huggingface_hub's progress bars: there is one of ours."""
    from huggingface_hub import constants, utils

    if utils.are_progress_bars_disabled() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _explain(repo: Repo, error: BaseException) -> Exception | None:
    """The one line for an error of the Hub while a dataset is written to it."""
    found = next((explained for cause in chain(error) if (explained := _explain_one(repo, cause)) is not None), None)
    if found is None and isinstance(error, RuntimeError) and str(error).startswith("Error while uploading"):
        found = StorageError(f"{first_line(error)} {first_line(error.__cause__ or error)}; {AGAIN}")
    return found


def _explain_one(repo: Repo, error: BaseException) -> Exception | None:
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx

    status = status_of(error)
    if isinstance(error, errors.HFValidationError):
        return UsageError(invalid_name(repo))
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unreachable("HF_HUB_OFFLINE is set: unset it")
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return DatasetError(f"the Hub refuses the card of the dataset: {' '.join(str(error).split())}")
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return StorageError(f"the Hub refuses your token: {TOKEN} with another")
    if status in (401, 404):
        return StorageError(f"there is no dataset {repo.name} on the Hub that your token may see: check the name, or {TOKEN} with another")
    if status == 403:
        reason = _said(error)
        return StorageError(f"your token may not write to {repo.name} ({reason}): name another owner, or give the token write access")
    if status == 429:
        return StorageError(f"the Hub takes no more from you for now (429): wait some minutes, then {AGAIN}")
    if status is not None and status >= 500:
        return StorageError(f"the Hub failed with {status}, several times: {AGAIN}")
    if status is not None and status >= 400:
        return StorageError(f"the Hub refused with {status} ({_said(error)}): see to it, then {AGAIN}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Unreachable(f"no connection to {constants.ENDPOINT} ({first_line(error)}): see to the network")
    if isinstance(error, httpx.TransportError):
        return StorageError(f"the connection to {constants.ENDPOINT} broke several times ({type(error).__name__}): {AGAIN}")
    return None


def _said(error: Any) -> str:
    return printable(" ".join(str(getattr(error, "server_message", None) or first_line(error)).split()).rstrip("."))
