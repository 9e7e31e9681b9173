"""Join a Ray cluster: check its address, list its nodes, keep Ray quiet while it starts."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace

from textsmooth.pipeline.plan.inputs import Sources

REACH_S = 10.0  # timeout for a connection to the cluster


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def reach(address: str) -> None:
    """OSError if nothing answers at HOST:PORT: Ray itself would try for more than a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray's C++ core off stderr while it starts, and all but fatal messages later; its log folder has everything."""
    was_set = "RAY_BACKEND_LOG_LEVEL" in os.environ
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
        if not was_set:
            del os.environ["RAY_BACKEND_LOG_LEVEL"]


def absolute_sources(sources: Sources) -> Sources:
    """The same sources with absolute paths: a worker has another current folder."""
    files = {name: file if file.path is None else replace(file, path=file.path.absolute()) for name, file in sources.files.items()}
    task_teacher = sources.task_teacher
    return replace(
        sources, files=files, teacher=sources.teacher.absolute(), task_teacher=None if task_teacher is None else task_teacher.absolute()
    )
