"""A stand-in for Amazon S3: moto's server, in a process of its own, with faults on request and a log of what was asked.

By hand: `python tests/s3_server.py --port 9000 --bucket data`, then in another shell

    export AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any AWS_DEFAULT_REGION=us-east-1
    textsmooth-gen --corpus demo --out s3://data/smoothed

and, to see what an unreliable store does to it:

    curl -X POST 127.0.0.1:9000/-/faults -d '[{"pattern": "^PUT ", "status": 503, "code": "SlowDown", "share": 0.3}]'
    curl 127.0.0.1:9000/-/log

Unlike moto alone, of two exclusive creations at once only one succeeds: requests that write are served one after the other.
"""

import argparse
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from http.client import responses
from pathlib import Path
from typing import Any
from urllib.parse import quote

CONTROL = "/-/"
BLOCK = 1 << 14


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD /bucket/key?query` has a match for a pattern."""

    pattern: str
    status: int | None = None  # answered instead
    code: str = ""  # of that answer: SlowDown, AccessDenied …
    late: bool = False  # only the answer is lost: the request takes effect
    drop: bool = False  # the connection is reset instead of an answer
    body_bytes: int | None = None  # so much of the body comes, then the connection is reset
    flip: bool = False  # a bit of the body is another one
    delay_s: float = 0.0  # before the answer
    block_s: float = 0.0  # before each BLOCK of the body
    share: float = 1.0  # of the requests
    times: int = 1_000_000  # requests, then all is well again


class Dropped(ConnectionResetError):
    pass


class Application:
    """moto behind faults and a log (WSGI)."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.moto = DomainDispatcherApplication(create_backend_app)
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self._lock, self._writes = threading.Lock(), threading.Lock()
        self._random = random.Random(0)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL), environ["REQUEST_METHOD"], body, start)
        asked = f"{environ['REQUEST_METHOD']} {path}{'?' if environ.get('QUERY_STRING') else ''}{environ.get('QUERY_STRING', '')}"
        fault = self._fault(asked)
        if fault is not None and not fault.late and (fault.status or fault.drop):
            self._note(asked, environ, "fault")
            time.sleep(fault.delay_s)
            return self._refuse(fault, environ, start)
        answer: list[Any] = []
        with self._writes if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE") else self._lock:
            got = b"".join(self.moto(environ, lambda status, headers, *rest: answer.extend((status, headers))))
        self._note(asked, environ, "lost" if fault is not None and fault.late else answer[0].partition(" ")[0])
        if fault is None:
            start(*answer)
            return [got]
        time.sleep(fault.delay_s)
        if fault.late:
            return self._refuse(fault, environ, start)
        if fault.flip and got:
            got = bytes([got[0] ^ 1]) + got[1:]
        start(*answer)
        return self._body(fault, got, environ)

    def _note(self, asked: str, environ: dict[str, Any], status: str) -> None:
        with self._lock:
            self.log.append(f"{asked} {environ.get('HTTP_RANGE', '')}".strip() + f" {status}")

    def _fault(self, asked: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, asked) and self._random.random() < fault.share:
                    fault.times -= 1
                    return fault
        return None

    def _refuse(self, fault: Fault, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if fault.status is None:
            self._reset(environ)
        assert fault.status is not None
        said = f"<Error><Code>{fault.code}</Code><Message>made by a fault</Message></Error>" if fault.code else "not XML at all"
        start(
            f"{fault.status} {responses.get(fault.status, '')}", [("Content-Type", "application/xml"), ("Content-Length", str(len(said)))]
        )
        return [said.encode() if environ["REQUEST_METHOD"] != "HEAD" else b""]

    def _body(self, fault: Fault, body: bytes, environ: dict[str, Any]) -> Iterator[bytes]:
        for first in range(0, len(body), BLOCK):
            time.sleep(fault.block_s)
            block = body[first : first + BLOCK]
            if fault.body_bytes is not None and first + len(block) > fault.body_bytes:
                yield block[: fault.body_bytes - first]
                self._reset(environ)
            yield block

    def _reset(self, environ: dict[str, Any]) -> None:
        connection: socket.socket = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(os.dup(connection.fileno()))
        connection.shutdown(socket.SHUT_RDWR)
        raise Dropped

    def _control(self, name: str, method: str, body: bytes, start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            if name == "faults" and method == "POST":
                self.faults = [Fault(**fault) for fault in json.loads(body)]
            if name == "log" and method == "DELETE":
                self.log.clear()
            answer: Any = self.log if name == "log" else [asdict(fault) for fault in self.faults]
            data = json.dumps(answer).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
        return [data]


def serve(port: int, buckets: list[str]) -> None:
    """Serve on 127.0.0.1 until the process ends; the first line it prints is the URL."""
    import warnings

    warnings.simplefilter("ignore")
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """The log is asked for."""

    server = make_server("127.0.0.1", port, Application(), threaded=True, request_handler=Handler)
    from moto.s3.models import s3_backends

    for bucket in buckets:
        s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


@dataclass
class S3:
    """A server in another process, for tests; use as a context manager."""

    process: Any = None
    url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    buckets: int = 0

    def __enter__(self) -> "S3":
        here = Path(__file__).resolve()
        few = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "20"}  # of a page of a listing: 1000 at Amazon
        self.process = subprocess.Popen([sys.executable, str(here), "--port", "0"], stdout=subprocess.PIPE, text=True, env=few)
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the server did not start"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A plain request, past all clients and their retries."""
        data = body if method in ("PUT", "POST") else None
        signed = "AWS4-HMAC-SHA256 Credential=any/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=any"  # not looked at
        headers = {"Content-Type": "application/octet-stream", "Authorization": signed}
        asked = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            got: bytes = answer.read()
        return got

    def faults(self, *faults: Fault) -> None:
        """From now on these go wrong, and no others."""
        self.request("POST", f"{CONTROL}faults", json.dumps([asdict(fault) for fault in faults]).encode())

    def log(self) -> list[str]:
        """`METHOD /bucket/key?query range status` of each request since the log was cleared; status fault or lost where one hit."""
        found: list[str] = json.loads(self.request("GET", f"{CONTROL}log"))
        return found

    def clear(self) -> None:
        """No faults, and an empty log."""
        self.faults()
        self.request("DELETE", f"{CONTROL}log")

    def new_bucket(self) -> str:
        """s3://… of an empty bucket; no faults, an empty log."""
        self.clear()
        self.buckets += 1
        self.request("PUT", f"/bucket-{self.buckets}")
        self.clear()
        return f"s3://bucket-{self.buckets}"

    def put(self, uri: str, data: bytes) -> None:
        """Put an object in place."""
        self.request("PUT", f"/{quote(uri.removeprefix('s3://'))}", data)

    def get(self, uri: str) -> bytes:
        """The bytes of an object."""
        return self.request("GET", f"/{quote(uri.removeprefix('s3://'))}")

    def delete(self, uri: str) -> None:
        """Remove an object."""
        self.request("DELETE", f"/{quote(uri.removeprefix('s3://'))}")

    def upload(self, folder: Path, uri: str) -> str:
        """Put the files of a folder in place, and return the URI."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{uri}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return uri


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for Amazon S3, with faults on request.")
    parser.add_argument("--port", type=int, default=9000, help="0: any that is free")
    parser.add_argument("--bucket", action="append", default=[], help="made before it serves; repeatable")
    asked = parser.parse_args()
    serve(asked.port, asked.bucket)


if __name__ == "__main__":
    main()
