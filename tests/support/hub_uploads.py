"""The half of the stand-in Hub that takes things in: repositories made, files transferred by LFS, commits.

A commit makes a new folder of hard links, so that older commits are still served. What is transferred is kept by its sha256, and is not
asked for twice. There is no Xet: clients need HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

UPLOAD = re.compile(r"/api/datasets/(?P<id>[^/]+/[^/]+)/(?P<verb>preupload|commit|settings)(?:/(?P<revision>[^/]+))?")
BATCH = re.compile(r"/datasets/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
LFS = re.compile(r"/lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+|done|verify))?")


@dataclass
class Refused(Exception):
    """An answer that is an error."""

    status: int
    message: str
    code: str | None = None


class Uploads:
    """What was sent, and what may be. A part of the server."""

    root: Path
    large: int
    revisions: dict[str, dict[str, Path]]
    private: dict[str, set[str]]
    tokens: set[str]

    def __init__(self) -> None:
        self.owners = {"hf_good": {"tiny", "me"}, "hf_admitted": set[str]()}  # token -> whose repositories it may write
        self.multipart = 1 << 20  # bytes of a part; larger files are sent in parts
        self.folder_files = 10_000  # in one folder, at most
        self.commits: list[tuple[str, str, list[str]]] = []  # repository, title, what was done to which path
        self.history: dict[str, list[str]] = {}  # repository -> its commits, as far as they were made here
        self.uploads = Path(tempfile.mkdtemp(prefix="hub-"))
        self.writing = threading.RLock()

    def close_uploads(self) -> None:
        shutil.rmtree(self.uploads)

    def place(self, oid: str) -> Path:
        return self.uploads / oid

    def knows(self, oid: str) -> bool:
        return self.place(oid).exists()


class Taking:
    """What the server's handler does with requests that send something; None where a request is none of these."""

    server: Any
    command: str
    headers: Any
    token: str

    def take(self, path: str, body: bytes) -> tuple[int, Any] | None:
        """Status and JSON of the answer."""
        if self.command == "GET" or self.command == "HEAD":
            if path == "/api/whoami-v2":
                return self._who()
            return None
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            asked = json.loads(body)["content"]
            return (400, {"errors": [{"message": '"license" is refused'}]}) if "license: refused" in asked else (200, {"warnings": []})
        if found := UPLOAD.fullmatch(path):
            repo = self._writable(found["id"])
            with self.server.writing:
                return getattr(self, f"_{found['verb']}")(repo, unquote(found["revision"] or "main"), body)  # type: ignore[no-any-return]
        if found := BATCH.fullmatch(path):
            self._writable(found["id"])
            return self._batch(json.loads(body))
        if found := LFS.fullmatch(path):
            return self._content(found["oid"], found["part"], body)
        return None

    def _who(self) -> tuple[int, Any]:
        if self.token not in self.server.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return 200, {"type": "user", "name": "me", "orgs": []}

    def _writable(self, name: str) -> str:
        repo = self._repo("datasets", name)  # type: ignore[attr-defined]
        if name.partition("/")[0] not in self.server.owners.get(self.token, set()):
            raise Refused(403, "You don't have the rights to write here")
        return str(repo)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self._who()
        owner, name = asked.get("organization") or "me", asked["name"]
        if owner not in self.server.owners.get(self.token, set()):
            raise Refused(403, f"You don't have the rights to create a dataset under the namespace {owner!r}")
        repo, url = f"datasets/{owner}/{name}", f"{self.server.url}/datasets/{owner}/{name}"
        if self.server.branches(repo):
            return 409, {"error": "You already created this dataset repo", "url": url}
        first = self.server.uploads / f"commit-{len(self.server.commits)}-{owner}-{name}"
        first.mkdir()
        (first / ".gitattributes").write_text("*.arrow filter=lfs diff=lfs merge=lfs -text\n")
        if asked.get("visibility") == "private":
            self.server.private[repo] = {self.token}
        self.server.revisions[repo] = {"main": first}
        return 200, {"url": url}

    def _settings(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        if asked.get("private") is False or asked.get("visibility") == "public":
            self.server.private.pop(repo, None)
        return 200, {}

    def _preupload(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        _, blobs = self.server.find(repo, revision)
        found = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(".arrow") or (file["size"] > self.server.large and file["path"] != "README.md")
            there = blobs.get(file["path"])
            oid = None if there is None else there.sha256 if large else there.git
            found.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        return 200, {"files": found}

    def _batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        away = f"http://localhost:{self.server.server_port}/lfs"  # another host, as the Hub's storage is
        objects = []
        for thing in asked["objects"]:
            oid, size = thing["oid"], thing["size"]
            found = {"oid": oid, "size": size}
            if not self.server.knows(oid):
                upload: dict[str, Any] = {"href": f"{away}/{oid}"}
                if size > self.server.multipart:
                    count = -(-size // self.server.multipart)
                    parts = {f"{number + 1:05d}": f"{away}/{oid}/{number}" for number in range(count)}
                    upload = {"href": f"{away}/{oid}/done", "header": {"chunk_size": str(self.server.multipart), **parts}}
                found["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/{oid}/verify"}}
            objects.append(found)
        return 200, {"transfer": "basic", "objects": objects}

    def _content(self, oid: str, part: str | None, body: bytes) -> tuple[int, Any]:
        place = self.server.place(oid)
        if part == "verify":
            return (200, {}) if place.exists() else (404, {"error": "not there"})
        if self.headers.get("Authorization"):
            raise Refused(400, "a token came to the storage host")
        if part is not None and part != "done":
            place.with_suffix(f".{part}").write_bytes(body)
            return 200, {"etag": hashlib.md5(body, usedforsecurity=False).hexdigest()}
        if part == "done":
            pieces = [place.with_suffix(f".{number}") for number in range(len(json.loads(body)["parts"]))]
            body = b"".join(piece.read_bytes() for piece in pieces)
            for piece in pieces:
                piece.unlink()
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "other bytes than were announced")
        place.write_bytes(body)
        return 200, {}

    def _commit(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        head, blobs = self.server.find(repo, revision)
        lines = [json.loads(line) for line in body.splitlines()]
        title = lines[0]["value"]
        if title.get("parentCommit") not in (None, head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files: dict[str, Path | bytes] = {path: blob.place for path, blob in blobs.items()}
        done = list(self._changes(lines[1:], files))
        if not done:
            raise Refused(400, "an empty commit")
        folder = self.server.uploads / f"commit-{len(self.server.commits)}-{os.urandom(4).hex()}"
        folder.mkdir()
        for path, content in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                place.write_bytes(content)
            else:
                os.link(content, place)
        if any(len(files) > self.server.folder_files for _, _, files in os.walk(folder)):
            raise Refused(400, f"more than {self.server.folder_files} files in a folder")
        self.server.revisions[repo] = {**self.server.branches(repo), revision: folder}
        self.server.commits.append((repo, title["summary"], done))
        commit = self.server.commit(repo, revision)
        self.server.history.setdefault(repo, [head]).append(commit)
        return 200, {"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit}

    def _changes(self, lines: list[dict[str, Any]], files: dict[str, Path | bytes]) -> Iterator[str]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if not self.server.knows(value["oid"]):
                    raise Refused(400, f"{value['path']} was never transferred")
                files[value["path"]] = self.server.place(value["oid"])
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise Refused(400, f"what is {line['key']}?")
            yield f"{line['key']} {value['path']}"
