"""The Hub: names and revisions resolved to one commit, files fetched or read in place, and what was read once again without a connection.

A listing is what was learnt of a repository at a commit: its files with sizes and ids, and what a dataset says of itself. It is kept
beside the cache of huggingface_hub, because a folder of that cache does not tell what it lacks.
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
from textsmooth.stages.hub.file import FETCH_AGAIN

LISTING_FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is known of a repository at one commit."""

    repo: str  # as the Hub calls it
    commit: str
    files: dict[str, tuple[int, str]]  # path -> bytes, id of the content in hexadecimal
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of a dataset: split -> paths
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    license: str | None = None
    about: dict[str, Any] = field(default_factory=dict)  # as corpus.card_facts has it
    csv: dict[str, Any] = field(default_factory=dict)


def is_name(name: str, *, parts: int) -> bool:
    found = name.split("/")
    return len(found) == parts and all(NAME.fullmatch(part) for part in found)


def listing(
    asked: Repo, config: str | None, fetch: Callable[[str, str], Listing], in_cache: Callable[[], Listing | None] = lambda: None
) -> Listing:
    """List a repository at one commit: from the Hub, or as it was listed last time where there is no connection.

    fetch: lists the files of a repository id at a commit. in_cache: where the Hub cannot be reached and was never listed before.
    """
    before = _read_listing(asked, config)
    if before is not None and asked.revision is not None and COMMIT.fullmatch(asked.revision):
        return before
    try:
        found = _ask_hub(asked, config, fetch)
    except Unreachable as error:
        if before is not None:
            return before
        if (cached := in_cache()) is not None:
            return cached
        which = f"{asked} with config {config!r}" if config else str(asked)
        raise asked.trouble(
            f"{error}, and {which} is neither on this machine nor in the cache: {FETCH_AGAIN}, or use {asked.instead}"
        ) from None
    for revision in (asked.revision, found.commit):
        _write_listing(Repo(kind=asked.kind, name=asked.name, revision=revision), config, found)
    return found


def _listing_path(asked: Repo, config: str | None) -> Path:
    from huggingface_hub import constants

    def name(value: str | None) -> str:
        return "default" if value is None else "=" + quote(value, safe="")

    folder = f"{asked.kind}s--{asked.name.replace('/', '--')}"
    return Path(constants.HF_HOME) / "textsmooth" / folder / name(asked.revision) / f"{name(config)}.json"


def _read_listing(asked: Repo, config: str | None) -> Listing | None:
    try:
        value = json.loads(_listing_path(asked, config).read_bytes())
        if value.pop("format") != LISTING_FORMAT:
            return None
        value["files"] = {path: (size, blob) for path, (size, blob) in value["files"].items()}
        for name in ("splits", "class_names"):
            value[name] = {k: tuple(v) for k, v in value[name].items()}
        return Listing(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_listing(asked: Repo, config: str | None, listing: Listing) -> None:
    path = _listing_path(asked, config)
    with contextlib.suppress(OSError):  # a cache that cannot be written may still be read
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump({"format": LISTING_FORMAT, **asdict(listing)}, file, indent=1)
        Path(temporary).replace(path)


def api() -> Any:
    from huggingface_hub import HfApi

    from textsmooth.schemas.version import VERSION

    return HfApi(library_name="textsmooth", library_version=VERSION)


def _ask_hub(asked: Repo, config: str | None, fetch: Callable[[str, str], Listing]) -> Listing:
    from huggingface_hub import constants

    timeout = float(constants.HF_HUB_ETAG_TIMEOUT)
    info = ask(asked, lambda: api().repo_info(asked.name, repo_type=asked.kind, revision=asked.revision, timeout=timeout))
    repo, commit = str(info.id), str(info.sha)
    same = _read_listing(Repo(kind=asked.kind, name=asked.name, revision=commit), config)
    return same or fetch(repo, commit)


def entry(file: Any) -> tuple[int, str]:
    """Size and id of a RepoFile."""
    return (file.lfs.size, file.lfs.sha256) if file.lfs else (file.size, file.blob_id)


def repo_tree(asked: Repo, repo: str, commit: str, *, recursive: bool) -> dict[str, tuple[int, str]]:
    from huggingface_hub.hf_api import RepoFile

    tree = ask(asked, lambda: list(api().list_repo_tree(repo, revision=commit, repo_type=asked.kind, recursive=recursive)))
    return {item.path: entry(item) for item in tree if isinstance(item, RepoFile)}
