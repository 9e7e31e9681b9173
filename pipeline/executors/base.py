"""What runs the units of a plan. Every executor takes units and yields receipts; storage, not the executor, is what counts."""

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textsmooth.pipeline.plan import machine
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.machine import Machine
from textsmooth.schemas.config import GenerateOptions, workers
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.plan import Plan, Receipt, Unit, UnitFailure
from textsmooth.stages.storage.folder import Folder

if TYPE_CHECKING:
    from textsmooth.pipeline.executors.ray_driver import RayExecutor

OnBatch = Callable[[int, int, int], None]
Outcome = Receipt | UnitFailure


class Executor(AbstractContextManager["Executor"], ABC):
    """Runs units somewhere. A context manager: on leaving, it takes down what it started. Nothing is started before it is asked for."""

    name: str  # inline, ray
    tell: Callable[..., None] = staticmethod(lambda event, **fields: None)  # as Progress.tell; set by the run

    @property
    def num_workers(self) -> int:
        """That run units, at most; known once they are loaded."""
        return 1

    @property
    def retries(self) -> int:
        """How often workers died and others were started."""
        return 0

    @abstractmethod
    def look(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        """As machine.look, of a machine where units will run."""

    @abstractmethod
    def load(self, plan: Plan, sources: Sources, out: Folder, on_batch: OnBatch) -> None:
        """Get ready for the units of a plan. Called before anything is written: a teacher that does not load is told then.

        on_batch is told of every forward pass, as it is done: real tokens, padded tokens, rows.
        """

    @abstractmethod
    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """What became of each unit, as soon as it is on storage; of those that were not begun because of `stop`, nothing."""

    @abstractmethod
    def stop(self) -> None:
        """Begin no further unit; those that run are finished. May be called from a signal handler."""

    def __exit__(self, *args: object) -> None:
        """Take down what was started."""


class Inline(Executor):
    """Runs units in this process, one worker, in order."""

    name = "inline"

    def __init__(self, worker: Any = None) -> None:
        self._class, self._stopped = worker, False
        self._worker: Any = None

    def look(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        return machine.look(options, device=device, dtype=dtype)

    def load(self, plan: Plan, sources: Sources, out: Folder, on_batch: OnBatch) -> None:
        import torch

        from textsmooth.pipeline.units.worker import UnitWorker

        torch.set_num_threads(plan.runtime["threads"])
        self._worker = (self._class or UnitWorker)(plan, sources, out, on_batch, stopped=lambda: self._stopped)

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        assert self._worker is not None, "load comes first"
        yield from self._worker.run(units)

    def stop(self) -> None:
        self._stopped = True


def executor(options: GenerateOptions) -> Executor:
    """The executor that a run asks for: Ray where a cluster is named, several GPUs are visible, or several workers are asked for.

    UsageError if Ray is not installed.
    """
    if not _on_ray(options):
        return Inline()
    if importlib.util.find_spec("ray") is None:
        raise UsageError('--executor ray needs Ray: pip install "textsmooth[ray]"')
    return OnRay(options)


class OnRay(Executor):
    """Ray, imported when there is something to do: that alone takes a second, and a finished run has nothing for it."""

    name = "ray"

    def __init__(self, options: GenerateOptions) -> None:
        self._options = options
        self._made: RayExecutor | None = None

    def _executor(self) -> "RayExecutor":
        if self._made is None:
            from textsmooth.pipeline.executors.ray_driver import RayExecutor

            self._made = RayExecutor(self._options)
            self._made.tell = self.tell
        return self._made

    @property
    def retries(self) -> int:
        return self._made.retries if self._made else 0

    @property
    def num_workers(self) -> int:
        return self._made.num_workers if self._made else 1

    def look(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        return self._executor().look(options, device=device, dtype=dtype)

    def load(self, plan: Plan, sources: Sources, out: Folder, on_batch: OnBatch) -> None:
        self._executor().load(plan, sources, out, on_batch)

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        return self._executor().run(units)

    def stop(self) -> None:
        if self._made is not None:
            self._made.stop()

    def __exit__(self, *args: object) -> None:
        if self._made is not None:
            self._made.__exit__(*args)


def _on_ray(options: GenerateOptions) -> bool:
    if options.executor != "auto":
        return options.executor == "ray"
    if options.ray_address or os.environ.get("RAY_ADDRESS") or options.ship_code or options.gpus_per_worker or options.cpus_per_worker:
        return True
    if options.num_workers is not None:
        return workers(options.num_workers)[1] > 1
    return options.device is None and _gpus() > 1


def _gpus() -> int:
    """Visible to this process; torch is not loaded for it where there is no driver."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return 0
    import torch

    return torch.cuda.device_count()
