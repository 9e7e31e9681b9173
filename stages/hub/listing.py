"""List a repository on the Hub at one commit, and remember the listing for a run without a connection.

A listing has the files of a repository at a commit, with sizes and ids, and what a dataset declares about itself. It is stored beside the
cache of huggingface_hub, because a folder of that cache does not show which files are missing.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from textsmooth.stages.hub.errors import Repo, Unreachable, ask
from textsmooth.stages.hub.file import DOWNLOAD_FIRST, HubFile

LISTING_FORMAT = 1
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is known about a repository at one commit."""

    repo: str  # as the Hub spells it
    commit: str
    files: dict[str, tuple[int, str]]  # path -> bytes, id of the content in hexadecimal
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of a dataset: split -> paths
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    license: str | None = None
    about: dict[str, Any] = field(default_factory=dict)  # see corpus.folder.card_facts
    csv: dict[str, Any] = field(default_factory=dict)  # delimiter, if it is not that of the suffix

    def hub_files(self, kind: str) -> dict[str, HubFile]:
        """The files by path. kind: dataset, model."""
        return {
            path: HubFile(kind=kind, repo=self.repo, commit=self.commit, path=path, size=size, blob=blob)
            for path, (size, blob) in self.files.items()
        }


def listing(
    repo: Repo, config: str | None, fetch: Callable[[str, str], Listing], in_cache: Callable[[], Listing | None] = lambda: None
) -> Listing:
    """List a repository at one commit: from the Hub, or as it was listed last time if there is no connection.

    fetch: lists the files of a repository id at a commit. in_cache: called if the Hub cannot be reached and was never listed before.
    """
    previous = _read_listing(repo, config)
    if previous is not None and repo.revision is not None and COMMIT.fullmatch(repo.revision):
        return previous
    try:
        current = _ask_hub(repo, config, fetch)
    except Unreachable as error:
        if previous is not None:
            return previous
        if (cached := in_cache()) is not None:
            return cached
        which = f"{repo} with config {config!r}" if config else str(repo)
        raise repo.error_type(
            f"{error}, and {which} is neither on this machine nor in the cache: {DOWNLOAD_FIRST}, or use {repo.offline_choice}"
        ) from None
    for revision in (repo.revision, current.commit):
        _write_listing(Repo(kind=repo.kind, name=repo.name, revision=revision), config, current)
    return current


def _listing_path(repo: Repo, config: str | None) -> Path:
    from huggingface_hub import constants

    def name(value: str | None) -> str:
        return "default" if value is None else "=" + quote(value, safe="")

    folder = f"{repo.kind}s--{repo.name.replace('/', '--')}"
    return Path(constants.HF_HOME) / "textsmooth" / folder / name(repo.revision) / f"{name(config)}.json"


def _read_listing(repo: Repo, config: str | None) -> Listing | None:
    try:
        value = json.loads(_listing_path(repo, config).read_bytes())
        if value.pop("format") != LISTING_FORMAT:
            return None
        value["files"] = {path: (size, blob) for path, (size, blob) in value["files"].items()}
        for name in ("splits", "class_names"):
            value[name] = {k: tuple(v) for k, v in value[name].items()}
        return Listing(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_listing(repo: Repo, config: str | None, listing: Listing) -> None:
    path = _listing_path(repo, config)
    with contextlib.suppress(OSError):  # the cache may be read-only
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": LISTING_FORMAT, **asdict(listing)}, file, indent=1)
        Path(temporary).replace(path)


def api() -> Any:
    """A client of the Hub that names textsmooth and its version."""
    from huggingface_hub import HfApi

    from textsmooth.schemas.version import VERSION

    return HfApi(library_name="textsmooth", library_version=VERSION)


def _ask_hub(repo: Repo, config: str | None, fetch: Callable[[str, str], Listing]) -> Listing:
    from huggingface_hub import constants

    timeout = float(constants.HF_HUB_ETAG_TIMEOUT)
    info = ask(repo, lambda: api().repo_info(repo.name, repo_type=repo.kind, revision=repo.revision, timeout=timeout))
    name, commit = str(info.id), str(info.sha)
    known = _read_listing(Repo(kind=repo.kind, name=repo.name, revision=commit), config)
    return known or fetch(name, commit)


def size_and_id(file: Any) -> tuple[int, str]:
    """Size in bytes and content id of a RepoFile."""
    return (file.lfs.size, file.lfs.sha256) if file.lfs else (file.size, file.blob_id)


def repo_tree(repo: Repo, name: str, commit: str, *, recursive: bool) -> dict[str, tuple[int, str]]:
    """All files of a repository at a commit: path -> size and id. name: as the Hub spells it."""
    from huggingface_hub.hf_api import RepoFile

    tree = ask(repo, lambda: list(api().list_repo_tree(name, revision=commit, repo_type=repo.kind, recursive=recursive)))
    return {entry.path: size_and_id(entry) for entry in tree if isinstance(entry, RepoFile)}
