"""Run units on a Ray cluster: Ray Data streams them through a pool of actors, each with a teacher. They return only receipts."""

import contextlib
import io
import json
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from textsmooth.pipeline.executors import ray_worker
from textsmooth.pipeline.executors.base import Executor, OnBatch, Outcome
from textsmooth.pipeline.executors.ray_cluster import absolute_sources, alive_nodes, quiet, reach
from textsmooth.pipeline.executors.ray_worker import CALLS, Job, RayWorker, Register
from textsmooth.pipeline.executors.ship_code import package
from textsmooth.pipeline.executors.shutdown import listen_again
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.machine import Machine
from textsmooth.schemas.config import GenerateOptions, workers
from textsmooth.schemas.errors import TextsmoothError, UsageError, WorkerError
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import BadRow, Receipt, UnitFailure
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder

WAVE = 50_000  # units of one pool, at most: what is sent to it lies in memory
BLOCKS = 4096  # of units, at most: Ray makes them one by one before the first is run
TRIES = 3  # of a pool, in a row without one more unit done
DEATHS = 3  # of workers at start, in a row
WAIT_S = 900.0  # for a node that can take a worker, where the cluster may still grow
START_S = 300.0  # for a process on a node that can


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The number of workers, and the resources that Ray reserves for each."""

    least: int
    most: int
    initial: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU{f' and {self.gpus:g} GPU' if self.gpus else ''}"

    def fits(self, resources: dict[str, float]) -> bool:
        """Whether a node with these resources can take a worker."""
        return resources.get("CPU", 0) >= self.cpus and resources.get("GPU", 0) >= self.gpus


def pool_for(options: GenerateOptions, nodes: Sequence[dict[str, float]]) -> Pool:
    """The pool for these options and nodes. By default one worker for each visible GPU, or one for each node.

    A worker on CPUs gets its share of a node, and one thread for each CPU.
    """
    on_cpu = (options.device or "").startswith("cpu")
    all_gpus = sum(resources.get("GPU", 0) for resources in nodes)
    gpus = options.gpus_per_worker if options.gpus_per_worker is not None else float(not on_cpu and all_gpus > 0)
    suitable = [resources for resources in nodes if resources.get("CPU", 0) >= 1 and resources.get("GPU", 0) >= gpus]
    if options.num_workers is not None:
        least, most = workers(options.num_workers)
    else:
        least = most = max(int(all_gpus / gpus) if gpus else len(suitable), 1)
    cpus = options.cpus_per_worker
    if cpus is None and not gpus and suitable:
        share = -(-most // len(suitable))
        cpus = max(min(resources["CPU"] for resources in suitable) // share, 1.0)
        cpus = min(cpus, float(options.threads)) if options.threads else cpus
    cpus = 1.0 if cpus is None else cpus
    return Pool(least=least, most=most, initial=options.initial_workers or least, cpus=cpus, gpus=gpus)


class RayExecutor(Executor):
    """Run units on a Ray cluster: the one that the options name, or one started on this machine and stopped at the end.

    worker: a class to use instead of UnitWorker.
    """

    name = "ray"

    def __init__(self, options: GenerateOptions, worker: Any = None) -> None:
        self.options, self._worker = options, worker
        self.pool: Pool | None = None
        self._retries = 0  # of pools that failed
        self._started = self._local = False
        self._stack = contextlib.ExitStack()
        self._folder: Any = None
        self._job: Job | None = None
        self._register: Any = None
        self._stop = threading.Event()
        self._on_batch: OnBatch = lambda tokens, padded, rows: None

    @property
    def num_workers(self) -> int:
        """Of the pool, at most."""
        return self.pool.most if self.pool else 1

    @property
    def retries(self) -> int:
        return self._retries

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each node of the cluster, after joining it."""
        self._start()
        return alive_nodes()

    def _start(self) -> Pool:
        import ray

        if self.pool is not None:
            return self.pool
        address = self.options.ray_address or os.environ.get("RAY_ADDRESS") or None
        if address and address.startswith("ray://"):
            raise UsageError(
                f"--ray-address {address}: Ray Client cannot run this; use HOST:PORT on a node of the cluster, or ray job submit"
            )
        if not ray.is_initialized():
            self._init(address)
        elif self.options.ray_address or self.options.ship_code:
            raise UsageError("Ray is running in this process already: omit --ray-address and --ship-code")
        nodes = alive_nodes()
        self.pool = pool_for(self.options, nodes)
        count = str(self.pool.most) if self.pool.least == self.pool.most else f"{self.pool.least} to {self.pool.most}"
        self.tell("cluster", what=f"{count} worker{'' if self.pool.most == 1 else 's'}, {self.pool} each")
        left_open = self.options.gpus_per_worker is None and self.options.device is None
        if left_open and not self._local and not any(resources.get("GPU") for resources in nodes):
            self.tell("cluster", what="no node has a GPU now, so workers run on CPUs: --gpus-per-worker 1 waits for nodes that have one")
        return self.pool

    def _init(self, address: str | None) -> None:
        import ray

        env = {}
        if self.options.ship_code:
            self._folder = tempfile.TemporaryDirectory(prefix="textsmooth-")
            env = {"py_modules": [str(package(Path(self._folder.name)))]}
        shared = {
            "runtime_env": env,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
            "namespace": "textsmooth",
        }
        try:
            with quiet():
                if address:
                    reach(address)
                    ray.init(address=address, **shared)
                else:
                    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
                    _, most = workers(self.options.num_workers)
                    needed = -(-most * (self.options.cpus_per_worker or 1) // 1)
                    ray.init(address="local", num_cpus=int(max(cpus, needed)), include_dashboard=False, **shared)
        except ValueError as error:
            raise UsageError(f"--ray-address {address}: {' '.join(str(error).split())[:300]}") from None
        except (OSError, RuntimeError) as error:
            where = f"no Ray cluster at {address}" if address else "Ray does not start here"
            raise WorkerError(f"{where}: {' '.join(str(error).split())[:300]}") from None
        self._started, self._local = True, not address
        self.tell("cluster", what=f"joined the Ray cluster at {address}" if address else "started Ray on this machine")
        listen_again()
        # Ray prints what happens to nodes on stdout, which is for our own result
        self._stack.enter_context(contextlib.redirect_stdout(_LineStream(lambda words: self.tell("cluster", what=words))))

    def _remote_args(self) -> dict[str, Any]:
        pool = self._start()
        # Ray sets OMP_NUM_THREADS to a worker's CPUs; the plan has the number of threads
        env_vars = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "20000"), "TOKENIZERS_PARALLELISM": "true"}
        return {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "runtime_env": {"env_vars": env_vars}}

    def _ask(self, function: Any, *args: Any) -> Any:
        """Call a function on a node that can take a worker. WorkerError if there is none."""
        import ray

        pool = self._start()
        waited = 0.0
        answer = ray.remote(max_retries=3, **self._remote_args())(function).remote(*args)
        while True:
            ready, _ = ray.wait([answer], timeout=5.0)
            if ready:
                break
            waited += 5.0
            if waited % 30 == 0:
                self.tell("waiting", what=f"{waited:g} s for a node that can take a worker with {pool}", seconds=waited)
            nodes = alive_nodes()
            now = pool_for(self.options, nodes)
            if not any(map(pool.fits, nodes)) and now != pool and any(map(now.fits, nodes)):  # nodes that were gone looked alive
                ray.cancel(answer, force=True)
                self.pool = None
                return self._ask(function, *args)
            limit = START_S if any(map(pool.fits, nodes)) else 0.0 if self._local else WAIT_S
            if waited > limit:
                ray.cancel(answer, force=True)
                what = ", ".join(sorted({f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes})) or "nothing"
                raise WorkerError(f"no worker with {pool} came up in {waited:g} s; the nodes of the cluster have {what}: ask for less")
        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TextsmoothError):
                raise error.cause from None
            raise WorkerError(f"a worker failed at start: {_message(error)}") from None
        except ray.exceptions.RayError as error:
            raise WorkerError(f"a worker died at start: {_message(error)}") from None

    def find_machine(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        pool = self._start()
        machine: Machine = self._ask(ray_worker.find_machine, options, device, dtype)
        return replace(machine, threads=options.threads or max(int(pool.cpus), 1))

    def load(self, plan: Plan, sources: Sources, out: Folder, on_batch: OnBatch) -> None:
        import ray

        if self._register is None:
            self._register = ray.remote(num_cpus=0, max_restarts=-1)(Register).remote()
        self._job = Job(
            plan=replace(plan, units=()),
            sources=absolute_sources(sources),
            out=str(out.path.resolve()) if isinstance(out, LocalFolder) else str(out),
            register=self._register,
            worker=self._worker,
        )
        self._on_batch = on_batch
        error = self._ask(ray_worker.check_worker, self._job)
        if error:
            raise WorkerError(error)

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        import ray

        left = {unit.id: unit for unit in units}
        tries = 0
        with self._watch_stop():
            while left and not self._stop.is_set():
                before = len(left)
                try:
                    for outcome in self._stream(list(islice(left.values(), WAVE))):
                        left.pop(outcome.unit, None)
                        yield outcome
                    if not self._stop.is_set() and len(left) == before:
                        return  # the dataset was finished by another driver
                except ray.exceptions.RayError as error:
                    tries = tries + 1 if len(left) == before else 1
                    self._retries += 1
                    if tries >= TRIES or not ray.is_initialized():
                        raise WorkerError(f"workers died {tries} times in a row without one more unit done: {_message(error)}") from None
                    self.tell("retry", what="workers died, others are started", error=_message(error), left=len(left))

    def _stream(self, units: list[Unit]) -> Iterator[Outcome]:
        """Run units in one pool until all have an outcome. RayError if the pool cannot go on."""
        import ray
        import ray.data

        pool = self._start()
        rows = [{"unit": json.dumps(asdict(unit))} for unit in units]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
        context = dataset.context
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks, context.max_consecutive_actor_init_deaths = 0, DEATHS
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        outcomes = dataset.map_batches(
            RayWorker,
            fn_constructor_args=(self._job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=pool.least,
                max_size=pool.most,
                initial_size=pool.initial,
                max_tasks_in_flight_per_actor=CALLS,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            **self._remote_args(),
        )
        for batch in outcomes.iter_batches(batch_size=None, prefetch_batches=0):
            for words in batch["outcome"]:
                outcome = _outcome(json.loads(words))
                if isinstance(outcome, Receipt):
                    self._on_batch(outcome.tokens, int(outcome.stats.get("padded", outcome.tokens)), outcome.rows)
                if outcome is not None:
                    yield outcome

    def stop(self) -> None:
        self._stop.set()

    @contextlib.contextmanager
    def _watch_stop(self) -> Iterator[None]:
        """During a run, pass `stop` on to the workers: not from the signal handler itself, because Ray may be in the middle of a call."""
        import ray

        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                if self._stop.wait(0.2):
                    with contextlib.suppress(ray.exceptions.RayError):
                        ray.get(self._register.stop.remote(), timeout=10)
                    return

        thread = threading.Thread(target=watch, name="stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=1)

    def __exit__(self, *args: object) -> None:
        import ray

        if self._started:
            ray.shutdown()
            self._started = False
        self._stack.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class _LineStream(io.TextIOBase):
    """A text stream that calls a function with each line."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._thread = tell, threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        line = getattr(self._thread, "line", "") + text
        *whole, self._thread.line = line.split("\n")
        for words in whole:
            if plain := re.sub(r"\x1b\[[0-9;]*m|^\s*\(\w+\) *", "", words).strip():
                self._tell(plain)
        return len(text)


def _outcome(value: dict[str, Any]) -> Outcome | None:
    if "error" in value:
        raise WorkerError(value["error"])
    if "receipt" in value:
        return Receipt.from_json(value["receipt"])
    if "failure" not in value:
        return None
    failure = value["failure"]
    return UnitFailure(**{**failure, "rows": tuple(BadRow(**row) for row in failure["rows"])})


def _message(error: BaseException) -> str:
    """The message of an error of Ray in one line; of a worker's own exception, its last line."""
    import ray

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ray.exceptions.RayTaskError):
        own = [line.strip() for line in str(error.cause or "").splitlines() if line.strip()]
        return (f"{type(error.cause).__name__}: {own[0]}" if len(own) == 1 else own[-1]) if own else lines[-1]
    whole = " ".join(lines) or type(error).__name__
    return whole if len(whole) <= 400 else f"{whole[:200]} … {whole[-200:]}"
