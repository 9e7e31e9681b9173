"""What the tests of push and pull share: a look into a repository, and datasets whose files were changed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hub_server import Hub

from textsmooth.pipeline.share.pull import pull
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages.storage import atomic as storage

TOKEN = "hf_good"


def at_head(hub: Hub, name: str = "datasets/me/set") -> dict[str, bytes]:
    """The files of a repository, as they are at its head; .gitattributes apart."""
    found = hub.find(name, "main")
    assert found is not None
    return {path: blob.place.read_bytes() for path, blob in found[1].items() if path != ".gitattributes"}


def pull_to(source: str | Path, out: Path, **asked: Any) -> Path:
    """A folder to which it is pulled."""
    pull(source, out, **asked)
    return out


def rewrite(folder: Path, manifest: dict[str, Any]) -> None:
    """A manifest with a digest that fits."""
    manifest.pop("digest")
    (folder / MANIFEST).write_bytes(storage.pretty_json({**manifest, "digest": digest(manifest)}))


def change_file(folder: Path, name: str, data: bytes) -> None:
    """Other bytes in a file that is no shard, and in the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    entry = next(entry for entry in manifest["files"] if entry["path"] == name)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(folder, manifest)
