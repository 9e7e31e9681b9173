"""A small stand-in for the Hub: serves folders laid out as <root>/datasets/<owner>/<name>/… and <root>/models/<owner>/<name>/….

By hand: `python tests/support/hub_server.py FOLDER --port 8765`, then set HF_ENDPOINT=http://127.0.0.1:8765. A model without an owner,
<root>/models/<name>, is served as `<name>` and as `local/<name>`.

What the real one does and clients depend on: one commit per state of a repository, branches and tags that name commits, git and LFS ids,
large files behind a redirect to another host, ranges, pages, tokens, and the codes and headers of its errors. What it takes in:
hub_uploads.py.
"""

import argparse
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_uploads import Refused, Taking, Uploads

ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
API = re.compile(rf"/api/(?P<kind>models|datasets)/{ID}(?:/(?P<verb>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?")
REFS = re.compile(rf"/api/(?P<kind>models|datasets)/{ID}/(?P<verb>refs|commits/(?P<revision>[^/]+))")
RESOLVE = re.compile(rf"/(?:(?P<kind>datasets)/)?{ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
BLOCK = 1 << 16


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD /path` has a match for a pattern."""

    pattern: str
    status: int | None = None  # answered instead
    headers: dict[str, str] = field(default_factory=dict)  # of that answer
    drop_after: int | None = None  # bytes of a body until the connection ends
    drop_sent: int | None = None  # bytes of what a client sends until the connection ends
    late: bool = False  # only the answer is another one: the request takes effect
    reset: bool = False  # it ends with a reset, not in order
    whole: bool = False  # ranges are not served
    delay_s: float = 0.0
    times: int = 1_000_000  # requests, then all is well again


@dataclass
class Blob:
    """One file of a repository."""

    place: Path
    size: int
    git: str
    sha256: str


class Hub(Uploads, ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1 until it is closed; use as a context manager.

    revisions: `datasets/owner/name` -> name of a branch or tag -> folder; without an entry, `main` is the folder below the root.
    Folders must not change while they are served: a branch moves by naming another folder.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0, *, large: int = 10_000, page: int = 1000) -> None:
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", port), Handler)
        Uploads.__init__(self)
        self.root, self.large, self.page = root, large, page
        self.revisions: dict[str, dict[str, Path]] = {}
        self.redirects: dict[str, str] = {}  # `models/old` -> `models/owner/new`
        self.tokens: set[str] = {"hf_good", "hf_admitted"}
        self.gated: dict[str, set[str]] = {}  # repository -> tokens that may read its files
        self.private: dict[str, set[str]] = {}  # repository -> tokens that may see it
        self.faults: list[Fault] = []
        self.log: list[str] = []  # METHOD /path?query range
        self._folders: dict[Path, tuple[str, dict[str, Blob]]] = {}
        self._commits: dict[tuple[str, str], Path] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()
        self.close_uploads()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def commit(self, repo: str, revision: str = "main") -> str:
        """The commit that a revision of `datasets/owner/name` is at."""
        found = self.find(repo, revision)
        assert found is not None, f"{repo} has no revision {revision}"
        return found[0]

    def branches(self, repo: str) -> dict[str, Path]:
        """Branches and tags of a repository; none if there is no such repository."""
        if repo in self.revisions:
            return self.revisions[repo]
        kind, _, name = repo.partition("/")
        folder = self.root / kind / name.removeprefix("local/" if not (self.root / kind / name).is_dir() else "")
        there = folder.is_dir() and ("/" in name or any(file.is_file() for file in folder.iterdir()))  # an owner alone is none
        return {"main": folder} if there and ".." not in name else {}

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, Blob]] | None:
        """The commit and the files of a revision; None if there is no such revision."""
        with self._lock:
            for folder in self.branches(repo).values():
                self._commits[repo, self._read(folder)[0]] = folder
            folder_ = self.branches(repo).get(revision) or self._commits.get((repo, revision))
            return self._read(folder_) if folder_ else None

    def _read(self, folder: Path) -> tuple[str, dict[str, Blob]]:
        if folder not in self._folders:
            blobs = {}
            for place in sorted(p for p in folder.rglob("*") if p.is_file()):
                data = place.read_bytes()
                git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                blobs[place.relative_to(folder).as_posix()] = Blob(place, len(data), git, hashlib.sha256(data).hexdigest())
            commit = hashlib.sha1(json.dumps({path: blob.git for path, blob in blobs.items()}).encode()).hexdigest()
            self._folders[folder] = commit, blobs
        return self._folders[folder]

    def blob(self, sha256: str) -> Blob:
        """A large file by its content."""
        return next(b for _, blobs in list(self._folders.values()) for b in blobs.values() if b.sha256 == sha256)

    def entry(self, path: str, blob: Blob) -> dict[str, Any]:
        """A file as listings have it."""
        found = {"type": "file", "path": path, "size": blob.size, "oid": blob.git}
        if blob.size > self.large and path != "README.md":
            found["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        return found


def _blocks(blob: Blob, start: int, stop: int) -> Iterator[bytes]:
    with blob.place.open("rb") as file:
        file.seek(start)
        for at in range(start, stop, BLOCK):
            yield file.read(min(BLOCK, stop - at))


class Handler(Taking, BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in Hub.log."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        request = f"{self.command} {self.path}"
        self.server.log.append(f"{request} {self.headers.get('Range') or ''}".rstrip())
        self._fault = next((f for f in self.server.faults if f.times > 0 and re.search(f.pattern, request)), None) or Fault("")
        self._fault.times -= 1
        sleep(self._fault.delay_s)
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size if self._fault.drop_sent is None else min(size, self._fault.drop_sent))
        if self._fault.drop_sent is not None:
            return self._end()
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        try:
            if self._fault.status is not None and not self._fault.late:
                raise Refused(self._fault.status, "a fault was asked for")
            url = urlsplit(self.path)
            taken = self.take(url.path, body)
            if self._fault.status is not None and taken is not None:
                raise Refused(self._fault.status, "the answer is lost")
            if taken is not None:
                self._json(taken[1], taken[0], {"ETag": taken[1]["etag"]} if "etag" in taken[1] else None)
            elif found := REFS.fullmatch(url.path):
                self._refs(found)
            elif found := API.fullmatch(url.path):
                self._api(found, parse_qs(url.query), parse_qs(body.decode()))
            elif found := re.fullmatch(r"/cdn/([0-9a-f]{64})", url.path):
                if "Authorization" in self.headers:
                    raise Refused(400, "a token came to the storage host")
                blob = self.server.blob(found[1])
                self._file(blob)
            elif found := RESOLVE.fullmatch(url.path):
                self._resolve(found)
            else:
                raise Refused(404, "no such page")
        except Refused as error:
            code = {"X-Error-Code": error.code} if error.code else {}
            self._json({"error": error.message}, error.status, {**self._fault.headers, **code, "X-Error-Message": error.message})

    def _repo(self, kind: str, name: str) -> str:
        """The repository's key, if whoever asks may see it."""
        repo = f"{kind}/{name}"
        token = self.token
        if token and token not in self.server.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        if not self.server.branches(repo) or token not in self.server.private.get(repo, {token}):
            raise Refused(404, "Repository not found", "RepoNotFound") if token else Refused(401, "Invalid username or password.")
        return repo

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, Blob]]:
        found = self.server.find(repo, unquote(revision))
        if found is None:
            raise Refused(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return found

    def _api(self, found: re.Match[str], query: dict[str, list[str]], form: dict[str, list[str]]) -> None:
        kind, name, verb = found["kind"], found["id"], found["verb"]
        moved = self.server.redirects.get(f"{kind}/{name}")
        if moved:
            return self._send(307, b"", {"Location": self.path.replace(f"/{kind}/{name}", f"/{moved}", 1)})
        repo = self._repo(kind, name)
        commit, blobs = self._at(repo, found["revision"] or "main")
        if verb == "tree":
            return self._tree(commit, blobs, unquote(found["path"] or ""), query)
        if verb == "paths-info":
            folders = {"/".join(p.split("/")[:n]) for p in blobs for n in range(1, p.count("/") + 1)}
            asked = [path for path in form.get("paths", []) if path in blobs or path in folders]
            infos = [self.server.entry(p, blobs[p]) if p in blobs else {"type": "directory", "path": p, "oid": "0" * 40} for p in asked]
            return self._json(infos)
        return self._json({"id": name, "sha": commit, "private": repo in self.server.private, "gated": repo in self.server.gated})

    def _refs(self, found: re.Match[str]) -> None:
        repo = self._repo(found["kind"], found["id"])
        if found["verb"] == "refs":
            names = self.server.branches(repo)
            heads = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": self._at(repo, name)[0]} for name in names]
            return self._json({"branches": heads, "converts": [], "tags": [], "pullRequests": []})
        commit = self._at(repo, found["revision"])[0]
        known = self.server.history.get(repo, [commit])
        before = known[: known.index(commit) + 1] if commit in known else [commit]
        told = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""}
        return self._json([{"id": one, **told} for one in reversed(before)])

    def _tree(self, commit: str, blobs: dict[str, Blob], folder: str, query: dict[str, list[str]]) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in blobs.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refused(404, f"{folder} does not exist on {commit}", "EntryNotFound")
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in inside.items():
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                above = prefix + "/".join(parts[:depth])
                entries.setdefault(above, {"type": "directory", "path": above, "size": 0, "oid": hashlib.sha1(above.encode()).hexdigest()})
            if recursive or len(parts) == 1:
                entries[path] = self.server.entry(path, blob)
        at = int(query.get("cursor", ["0"])[0])
        stop = at + self.server.page
        headers = {}
        if stop < len(entries):
            headers["Link"] = f'<{self.server.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={stop}>; rel="next"'
        self._json(list(entries.values())[at:stop], headers=headers)

    def _resolve(self, found: re.Match[str]) -> None:
        kind = found["kind"] or "models"
        repo = self._repo(kind, found["id"])
        if repo in self.server.gated and self.token not in self.server.gated[repo]:
            raise Refused(403 if self.token else 401, f"Access to {kind} {found['id']} is restricted", "GatedRepo")
        commit, blobs = self._at(repo, found["revision"])
        blob = blobs.get(unquote(found["path"]))
        if blob is None:
            self._fault.headers = {"X-Repo-Commit": commit}
            raise Refused(404, "Entry not found", "EntryNotFound")
        if blob.size <= self.server.large:
            return self._file(blob, {"X-Repo-Commit": commit, "ETag": f'"{blob.git}"'})
        away = f"http://localhost:{self.server.server_port}/cdn/{blob.sha256}"  # another host, as the Hub's storage is
        linked = {"X-Linked-Size": str(blob.size), "X-Linked-Etag": f'"{blob.sha256}"', "ETag": f'"{blob.git}"'}
        return self._send(302, b"", {"X-Repo-Commit": commit, **linked, "Location": away})

    def _file(self, blob: Blob, headers: dict[str, str] | None = None) -> None:
        headers = {"ETag": f'"{blob.sha256}"', **(headers or {}), "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked or self._fault.whole:
            return self._send(200, _blocks(blob, 0, blob.size), headers, blob.size)
        start, stop = int(asked[1]), min(int(asked[2] or blob.size - 1) + 1, blob.size)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
        return self._send(206, _blocks(blob, start, stop), headers, stop - start)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes | Iterator[bytes], headers: dict[str, str], size: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body) if isinstance(body, bytes) else size)}.items():
            self.send_header(name, value)
        self.end_headers()
        left = self._fault.drop_after
        for block in [body] if isinstance(body, bytes) else body:
            if self.command == "HEAD":
                break
            self.wfile.write(block[:left])
            left = None if left is None else left - len(block)
            if left is not None and left < 0:
                self._end(reset=self._fault.reset)
                break

    def _end(self, *, reset: bool = True) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8765)
    asked = parser.parse_args()
    server = Hub(asked.folder, asked.port)
    print(f"HF_ENDPOINT={server.url}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
