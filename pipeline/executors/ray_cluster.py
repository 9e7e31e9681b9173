"""Join a Ray cluster: is it there, which nodes has it, quietly."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace

from textsmooth.pipeline.plan.inputs import Sources

REACH_S = 10.0  # for a cluster to answer


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster."""
    import ray

    return [found["Resources"] for found in ray.nodes() if found["Alive"]]


def reach(address: str) -> None:
    """OSError if nothing answers at HOST:PORT: Ray itself would try for more than a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While Ray starts, its C++ core says nothing on stderr, and nothing but what is fatal later; its log folder has it all."""
    told = "RAY_BACKEND_LOG_LEVEL" in os.environ
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
        if not told:
            del os.environ["RAY_BACKEND_LOG_LEVEL"]


def absolute_sources(sources: Sources) -> Sources:
    """The same places, however a worker's current folder is called."""
    files = {name: file if file.path is None else replace(file, path=file.path.absolute()) for name, file in sources.files.items()}
    second = sources.task_teacher
    return replace(sources, files=files, teacher=sources.teacher.absolute(), task_teacher=None if second is None else second.absolute())
