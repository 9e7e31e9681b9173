"""`ray job submit` to a real job server, as docs/cluster.md does it: killed and submitted again, stopped and submitted again."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran, rows, shards_of, until, write_jsonl

HEAD = """
import sys, tempfile
from ray.cluster_utils import Cluster

with tempfile.TemporaryDirectory(prefix="ts-job-", dir="/tmp") as folder:
    ports = {"dashboard_port": int(sys.argv[1]), "dashboard_agent_listen_port": None}  # None: any, another Ray may have the usual one
    server = {"include_dashboard": True, "dashboard_host": "127.0.0.1", **ports}
    head = {"num_cpus": 2, "object_store_memory": 80 * 1024 * 1024, "temp_dir": folder, **server}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print("head is up", folder, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""
SIZES = {"topk": 3, "rows-per-shard": 40, "context": "masked:4", "threads": 1, "dtype": "float32", "progress": "json"}


@dataclass(frozen=True)
class Server:
    """A head node with a job server."""

    process: subprocess.Popen[str]
    address: str
    env: dict[str, str]

    def submit(self, name: str, file: Path, *words: str) -> "subprocess.Popen[str]":
        """`ray job submit` of a job file; it waits for the job."""
        command = ["ray", "job", "submit", "--address", self.address, "--submission-id", name]
        entry = ["--", "textsmooth-gen", "--config", str(file), *words]
        return subprocess.Popen([*command, *entry], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self, name: str) -> None:
        """What `ray job stop` asks for, which takes seconds to start."""
        self._ask(f"{name}/stop", method="POST")

    def logs(self, name: str) -> str:
        found: str = self._ask(f"{name}/logs")["logs"]
        return found

    def ready(self) -> bool:
        """Whether jobs are taken: its agents come up after the head."""
        try:
            self._ask("", "POST", b'{"entrypoint": "true"}')
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.5)
            return False
        return True

    def _ask(self, what: str, method: str = "GET", data: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.address}/api/jobs/{what}", data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)


def processes(*words: str) -> list[int]:
    """Those whose command lines have all these words in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = file.read_bytes().decode(errors="replace")
            if all(word in command for word in words):
                found.append(int(file.parent.name))
    return found


def running(job: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Wait for a condition, while the job goes on."""
    until(lambda: condition() or job.poll() is not None, 300)
    assert job.poll() is None, job.communicate()[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_JOB_STOP_WAIT_TIME_S": "40",  # as in ray_cluster.yaml: Ray's own 3 s are too few to drain
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    env.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", HEAD, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdin and process.stdout
        folder = next(line.split()[-1] for line in process.stdout if line.startswith("head is up"))
        assert processes(folder)
        started = Server(process, f"http://127.0.0.1:{port}", env)
        until(started.ready, 400)
        yield started
        process.stdin.close()
        process.wait(timeout=60)
        until(lambda: not processes(folder))


@pytest.mark.slow
def test_without_the_token_nobody_gets_in(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(f"{server.address}/api/jobs/"):
        pass
    refused.value.close()
    assert refused.value.code == 401
    for without in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        command = ["ray", "job", "list", "--address", server.address]
        assert subprocess.run(command, env={**server.env, **without}, capture_output=True).returncode != 0


@pytest.mark.slow
def test_a_job_killed_or_stopped_and_submitted_again_is_finished_with_the_same_bytes(
    server: Server, teacher: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    corpus = write_jsonl(tmp_path / "many.jsonl", rows(1000, 3))
    whole, out, file = tmp_path / "whole", tmp_path / "out", tmp_path / "job.yaml"
    words = [word for name, value in SIZES.items() if name != "progress" for word in (f"--{name}", value)]
    assert gen("--corpus", corpus, "--out", whole, *words).code == 0

    def write_job(**more: object) -> None:
        job = {**SIZES, "corpus": str(corpus), "teacher": str(teacher), **more}
        file.write_text("".join(f"{name}: {value}\n" for name, value in job.items()))

    def receipts() -> int:
        return len(list((out / "receipts").glob("*.json")))

    write_job(executor="inline")  # the driver does the work itself: stopped, it drains
    stopped = server.submit("stopped", file, "--out", str(out))
    running(stopped, lambda: receipts() >= 2)
    server.stop("stopped")
    stopped.communicate(timeout=60)  # what it prints may lack the last lines
    said = server.logs("stopped")
    assert "SIGTERM: no further unit is begun" in said and "terminated; the same command goes on from here" in said
    assert json.loads((out / "run.json").read_bytes())["exit_code"] == 143
    first = receipts()
    assert 2 <= first < 25

    write_job()  # in a job of Ray's, the units run on its cluster
    killed = server.submit("killed", file, "--out", str(out))
    running(killed, lambda: receipts() > first)
    drivers = [pid for pid in processes("textsmooth-gen", str(out)) if pid != killed.pid]
    assert drivers
    for pid in drivers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert killed.communicate(timeout=60)[0] and killed.returncode != 0
    assert not (out / "manifest.json").exists()

    again = server.submit("again", file, "--out", str(out))
    shown, _ = again.communicate(timeout=120)
    assert again.returncode == 0, shown
    assert shards_of(out) == shards_of(whole)
    lines = [json.loads(line) for line in server.logs("again").splitlines() if line.startswith('{"event"')]
    started = next(line for line in lines if line["event"] != "cluster")
    assert started["event"] == "started" and started["executor"] == "ray" and started["done"] > first
    assert lines[-1]["event"] == "finished" and lines[-1]["outcome"] == "done"
