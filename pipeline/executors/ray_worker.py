"""Worker processes that Ray starts: one teacher each, units in, outcomes out. Shards never pass through Ray."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from textsmooth.pipeline import demo
from textsmooth.pipeline.plan.inputs import Sources, find_model
from textsmooth.pipeline.plan.machine import Machine, this_machine
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import CorpusError, MachineError, StorageError, TeacherError, TextsmoothError, WorkerError
from textsmooth.schemas.manifest import PLAN
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt, UnitFailure
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage.local import LocalFolder

CALLS = 3  # units in a worker at once: one is being prepared, one is in the forward pass, one is being written
MAX_STARTS = 3  # of a unit whose worker dies each time: then it counts as failed
EXIT_S = 2.0  # in which a process that ends itself can send its last answer


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs, sent once."""

    plan: Plan  # without its units
    sources: Sources
    out: str  # absolute path, or URI
    register: Any = None  # handle of the Register actor
    worker: Any = None  # class; None for UnitWorker

    def __repr__(self) -> str:  # Ray keeps it as the name of the job
        return f"Job({self.plan.corpus.name} -> {self.out})"


def node() -> str:
    """Name and address of this node, for messages."""
    import ray

    return f"{platform.node()} ({ray.util.get_node_ip_address()})"


def check_versions(planned: dict[str, str], installed: dict[str, str]) -> None:
    """WorkerError, naming the node, if this worker has other code, libraries or another device than the plan."""
    names = [name for name in planned | installed if installed.get(name) != planned.get(name)]
    if names:
        lines = [f"{name} {installed.get(name)}, the plan {planned.get(name)}" for name in names]
        raise WorkerError(
            f"worker on {node()} has {'; '.join(lines[:3])}{' …' if len(lines) > 3 else ''}: its shards would be other bytes. "
            "Install the same versions everywhere (--ship-code sends this checkout), and give one pool one kind of device"
        )


def localize(plan: Plan, sources: Sources) -> Sources:
    """The paths of the corpus and the teachers on this node. CorpusError or TeacherError, naming the node, if one is missing."""
    files = {}
    for name, file in sources.files.items():
        if file.remote is None and not Path(str(file)).exists():
            inside = demo.corpus_folder() / name
            if plan.corpus.name != "demo" or not inside.exists():
                raise CorpusError(
                    f"worker on {node()} does not see {file}: put the corpus where every node sees it, in an object store or on the Hub"
                )
            file = replace(file, path=inside)
        files[name] = file

    def model(folder: Path, name: str, revision: str | None) -> Path:
        if folder.is_dir():
            return folder
        if name == "demo":
            return demo.teacher_folder()
        if revision is not None:
            return find_model(name, revision, option="--teacher").folder
        raise TeacherError(f"worker on {node()} does not see {folder}: put the teacher where every node sees it, or name it on the Hub")

    second = sources.task_teacher
    if second is not None and plan.task_teacher is not None:
        second = model(second, plan.task_teacher.name, plan.task_teacher.revision)
    teacher = model(sources.teacher, plan.teacher.name, plan.teacher.revision)
    return replace(sources, files=files, teacher=teacher, task_teacher=second)


def find_machine(options: GenerateOptions, device: str | None, dtype: str | None) -> Machine:
    """`this_machine` on a node, with the node's address."""
    return replace(this_machine(options, device=device, dtype=dtype), node=node())


def make_worker(job: Job, stopped: Callable[[], bool]) -> Any:
    """A UnitWorker on this node with its teacher loaded. Raises a TextsmoothError that names the node."""
    import torch

    from textsmooth.pipeline.plan.versions import versions
    from textsmooth.pipeline.units.worker import UnitWorker
    from textsmooth.stages.soft_ids.codec import find_codec

    find_codec(job.plan.config.codec)  # UsageError where its library is not installed
    check_versions(job.plan.versions, versions(job.sources.device, job.plan.config.codec))
    torch.set_num_threads(job.plan.runtime["threads"])
    return (job.worker or UnitWorker)(job.plan, localize(job.plan, job.sources), open_folder(job.out), stopped=stopped)


def check_worker(job: Job) -> str | None:
    """Why no worker can be made on this node; None if one can."""
    try:
        make_worker(job, lambda: False)
    except TextsmoothError as error:
        return str(error)
    return None


class Clock(AbstractContextManager["Clock"]):
    """The lock around the forward pass, and a clock of the step of each thread that leaves out the waiting for that lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[int, float] = {}  # thread -> start of its step, moved forward by the time it waited

    def begin(self) -> None:
        self._since[threading.get_ident()] = time.monotonic()

    def end(self) -> None:
        self._since.pop(threading.get_ident(), None)

    @contextmanager
    def step(self, unit: str, what: str) -> Iterator[None]:
        """As Steps of units/watchdog.py."""
        self.begin()
        try:
            yield
        finally:
            self.begin()

    def __enter__(self) -> "Clock":
        began = self._since.pop(threading.get_ident(), None)  # a unit that waits does not age
        waits_since = time.monotonic()
        self._lock.acquire()
        if began is not None:
            self._since[threading.get_ident()] = began + time.monotonic() - waits_since
        return self

    def __exit__(self, *args: object) -> None:
        self._lock.release()

    def age(self, thread: int) -> float:
        """Seconds that the step of a thread has taken; 0 while it waits for the lock."""
        began = self._since.get(thread)
        return 0.0 if began is None else time.monotonic() - began


class Register:
    """An actor of the run: whether to stop, and how often each unit was begun without an end, so that none is tried for ever."""

    def __init__(self) -> None:
        self._stop = False
        self._begun: dict[str, int] = {}
        self._failed: dict[str, str] = {}

    def stop(self) -> None:
        self._stop = True

    def stopped(self) -> bool:
        return self._stop

    def begun(self, unit: str) -> tuple[int, str | None]:
        """How often a unit was begun without an end; and the error if it must not be tried again."""
        return self._begun.get(unit, 0), self._failed.get(unit)

    def begin(self, unit: str) -> None:
        self._begun[unit] = self._begun.get(unit, 0) + 1

    def fail(self, unit: str, error: str) -> None:
        self._failed[unit] = error

    def end(self, unit: str) -> None:
        self._begun.pop(unit, None)


class Slots:
    """Admit CALLS units at once; a unit whose worker died runs alone, so that no other is blamed if the worker dies again."""

    def __init__(self) -> None:
        self._door, self._free = threading.Lock(), threading.Semaphore(CALLS)

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        count = CALLS if alone else 1
        with self._door:
            for _ in range(count):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(count)


class RayWorker:
    """Take blocks of units and yield their outcomes as JSON. Several threads call it at once.

    A worker that cannot be made reports that in its outcomes, so that the driver can print it; it does not die.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.error, self.clock, self.slots = job, None, Clock(), Slots()
        self._threads = ThreadPoolExecutor(CALLS, "unit")
        self._leaving = threading.Event()
        try:
            self.worker = make_worker(job, self.stopped)
        except TextsmoothError as error:
            self.error = str(error)
            return
        self.worker.turn = self.worker.steps = self.clock
        if isinstance(self.worker.out, LocalFolder) and self.worker.out.size(PLAN) is None:
            self.error = f"worker on {node()} does not see {job.out}: --out must be on storage that every node sees, or s3://, gs://"

    def stopped(self) -> bool:
        return bool(self._registered("stopped", default=False))

    def _registered(self, what: str, *args: str, default: Any = None) -> Any:
        import ray

        try:
            return default if self.job.register is None else ray.get(getattr(self.job.register, what).remote(*args), timeout=10)
        except ray.exceptions.RayError:  # its node is gone
            return default

    def __call__(self, block: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for unit in block["unit"]:
            yield {"outcome": [self._outcome(unit)]}

    def _outcome(self, unit_json: str) -> str:
        if self.error is not None:
            return json.dumps({"error": self.error})
        if self._leaving.is_set():  # a unit hangs in this process: another one will take this
            time.sleep(10 * EXIT_S)
        unit = Unit(**json.loads(unit_json))
        starts, error = self._registered("begun", unit.id, default=(0, None))
        if error is None and starts >= MAX_STARTS:
            error = f"the worker died each of the {starts} times that it was begun: no memory, or a fault in native code"
        if error is not None:
            return json.dumps({"failure": asdict(self._failure(unit, error, attempts=starts))})
        try:
            with self.slots.taken(alone=starts > 0):
                self._registered("begin", unit.id)
                done = self._timed(unit)
                self._registered("end", unit.id)
        except (StorageError, MachineError):
            self._registered("end", unit.id)
            raise  # another machine, or this one in a while, may do better: the driver tries again
        except TextsmoothError as failed:
            return json.dumps({"error": f"{failed} [{unit.name} on {node()}]"})
        if isinstance(done, Receipt):
            return json.dumps({"receipt": done.to_json()})
        return json.dumps({"failure": asdict(replace(done, node=node()))} if done is not None else {})

    def _timed(self, unit: Unit) -> Receipt | UnitFailure | None:
        thread: list[int] = []

        def run() -> Receipt | UnitFailure | None:
            thread.append(threading.get_ident())
            self.clock.begin()
            try:
                done: Receipt | UnitFailure | None = self.worker.do(unit)
                return done
            finally:
                self.clock.end()

        future: Future[Receipt | UnitFailure | None] = self._threads.submit(run)
        limit = self.job.plan.runtime.get("unit_timeout_s")
        while not wait([future], timeout=None if limit is None else min(limit / 4, 1.0)).done:
            if limit is not None and thread and self.clock.age(thread[0]) > limit:
                why = f"took longer than {limit:g} s on {node()} (--unit-timeout)"
                self._registered("fail", unit.id, why)  # Ray may lose the answer with the process
                self._leave()
                return self._failure(unit, why)
        return future.result()

    def _failure(self, unit: Unit, why: str, attempts: int = 1) -> UnitFailure:
        return UnitFailure(unit=unit.id, name=unit.name, error=why, attempts=attempts, node=node(), works=True)  # not the set-up

    def _leave(self) -> None:
        """End this process once the answer is out: a thread that hangs cannot be ended otherwise. Ray starts another."""
        self._leaving.set()
        timer = threading.Timer(EXIT_S, os._exit, (1,))
        timer.daemon = True
        timer.start()
