"""A small stand-in for the JSON API of Google Cloud Storage: as much of it as gcsfs asks for a folder of a dataset.

By hand: `python tests/support/gcs_server.py --port 9001`, then `export STORAGE_EMULATOR_HOST=http://127.0.0.1:9001` and use gs://data/….
"""

import argparse
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PATH = re.compile(r"/(?:(?P<way>upload|download)/)?storage/v1/b/(?P<bucket>[^/]+)(?P<all>/o(?:/(?P<key>.+))?)?")


class GCS(ThreadingHTTPServer):
    """Serves buckets on 127.0.0.1 until it is closed; use as a context manager."""

    daemon_threads = True

    def __init__(self, port: int = 0, buckets: tuple[str, ...] = ("data",)) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.buckets: dict[str, dict[str, tuple[int, bytes]]] = {name: {} for name in buckets}  # key -> generation, content
        self.failures = 0  # requests that are answered with 503 before all is well
        self.generation = 0
        self.log: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "GCS":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GCS

    def log_message(self, format: str, *args: Any) -> None:
        """The log is in the server."""

    def answer(self, status: int, body: bytes | dict[str, Any] = b"") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if isinstance(body, dict) else "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int) -> None:
        self.answer(status, {"error": {"code": status, "message": "made so"}})

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = PATH.fullmatch(url.path)
        with self.server.lock:
            self.server.log.append(f"{self.command} {self.path}")
            if self.server.failures:
                self.server.failures -= 1
                return self.refuse(503)
            if found is None or found["bucket"] not in self.server.buckets:
                return self.refuse(404)
            objects, key = self.server.buckets[found["bucket"]], unquote(found["key"] or "")
            if self.command == "POST" and found["way"] == "upload":
                return self.upload(found["bucket"], objects, asked, body)
            if self.command == "GET" and not key:
                return self.listing(found["bucket"], objects, asked)
            if key not in objects or asked.get("generation", str(objects[key][0])) != str(objects[key][0]):
                return self.refuse(404)
            if self.command == "DELETE":
                del objects[key]
                return self.answer(204)
            if found["way"] != "download":
                return self.answer(200, self.entry(found["bucket"], key, objects[key]))
            return self.content(objects[key][1])

    do_GET = do_POST = do_DELETE = do

    def entry(self, bucket: str, key: str, found: tuple[int, bytes]) -> dict[str, Any]:
        return {"name": key, "bucket": bucket, "size": str(len(found[1])), "generation": str(found[0])}

    def upload(self, bucket: str, objects: dict[str, tuple[int, bytes]], asked: dict[str, str], body: bytes) -> None:
        mark = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        _, head, rest = body.split(mark, 2)
        key = json.loads(head.partition(b"\n\n")[2])["name"]
        data = rest.partition(b"\n\n")[2].rpartition(b"\n" + mark)[0]
        if asked.get("ifGenerationMatch") == "0" and key in objects:
            return self.refuse(412)
        self.server.generation += 1
        objects[key] = (self.server.generation, data)
        return self.answer(200, self.entry(bucket, key, objects[key]))

    def listing(self, bucket: str, objects: dict[str, tuple[int, bytes]], asked: dict[str, str]) -> None:
        items, prefixes = [], set()
        for key in sorted(objects):
            if not key.startswith(asked.get("prefix", "")):
                continue
            rest = key[len(asked.get("prefix", "")) :]
            if asked.get("delimiter") and asked["delimiter"] in rest:
                prefixes.add(asked.get("prefix", "") + rest.partition(asked["delimiter"])[0] + asked["delimiter"])
            else:
                items.append(self.entry(bucket, key, objects[key]))
        start, most = int(asked.get("pageToken") or 0), int(asked.get("maxResults") or 1000)
        more = {"nextPageToken": str(start + most)} if start + most < len(items) else {}
        self.answer(200, {"items": items[start : start + most], "prefixes": sorted(prefixes), **more})

    def content(self, data: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if found is None:
            return self.answer(200, data)
        return self.answer(206, data[int(found[1]) : int(found[2]) + 1 if found[2] else None])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A stand-in for Google Cloud Storage.")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--bucket", action="append", default=[], help="repeatable  [default: data]")
    options = parser.parse_args()
    with GCS(options.port, tuple(options.bucket) or ("data",)) as server:
        print(server.url, flush=True)
        threading.Event().wait()
