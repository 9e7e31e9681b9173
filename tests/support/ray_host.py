"""A real Ray cluster of several nodes on this machine, in a process of its own: told what to do by JSON lines.

By hand: python tests/support/ray_host.py, then {"add": {"num_cpus": 1}}, {"remove": 0}, {"resources": true}, {"raylet": 0}.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self


class RayHost:
    """The cluster, from outside. A context manager. head: CPUs of the head node; 0 for one that runs no units."""

    def __init__(self, head: int = 0, **env: str) -> None:
        command = [sys.executable, __file__, str(head)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env={**os.environ, **env}
        )
        self.pid = self._process.pid
        self.address = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._errors.close()

    def ask(self, **question: Any) -> Any:
        """add={node arguments} -> its number; remove=N, a node that leaves; raylet=N -> its pid; resources=True -> what is free."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise AssertionError(f"the cluster's process ended with {self._process.wait()}:\n{self._errors.read()}")
        return json.loads(line)


def serve(head: int) -> None:
    """The process: a cluster, until stdin ends."""
    import ray
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints to stdout too

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    with tempfile.TemporaryDirectory(prefix="ts-ray-", dir="/tmp" if Path("/tmp").is_dir() else None) as folder:  # socket paths are short
        shared = {"include_dashboard": False, "object_store_memory": 80 * 1024 * 1024}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "temp_dir": folder, **shared})
        ray.init(address=cluster.address, log_to_driver=False)
        nodes: list[Any] = []
        answer(cluster.address)
        for line in sys.stdin:
            for what, value in json.loads(line).items():
                if what == "add":
                    nodes.append(cluster.add_node(**{"num_cpus": 1, **shared, **value}))
                    answer(len(nodes) - 1)
                elif what == "remove":
                    cluster.remove_node(nodes[value], allow_graceful=False)
                    answer(value)
                elif what == "raylet":
                    answer(nodes[value].all_processes["raylet"][0].process.pid)
                else:
                    answer(ray.available_resources())
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
