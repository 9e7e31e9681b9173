"""What runs the units of a plan. Every executor takes units and yields receipts; storage, not the executor, is what counts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from textsmooth.pipeline import machine
from textsmooth.pipeline.machine import Machine
from textsmooth.pipeline.request import Sources
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.plan import Plan, Receipt, Unit, UnitFailure
from textsmooth.stages.folder import Folder

OnBatch = Callable[[int, int, int], None]
Outcome = Receipt | UnitFailure


class Executor(AbstractContextManager["Executor"], ABC):
    """Runs units somewhere. A context manager: on leaving, it takes down what it started. Nothing is started before it is asked for."""

    name: str  # inline, ray

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
        self._class, self._worker, self._stopped = worker, None, False

    def look(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        return machine.look(options, device=device, dtype=dtype)

    def load(self, plan: Plan, sources: Sources, out: Folder, on_batch: OnBatch) -> None:
        import torch

        from textsmooth.pipeline.unit import UnitWorker

        torch.set_num_threads(plan.runtime["threads"])
        self._worker = (self._class or UnitWorker)(plan, sources, out, on_batch, stopped=lambda: self._stopped)

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        assert self._worker is not None, "load comes first"
        yield from self._worker.run(units)

    def stop(self) -> None:
        self._stopped = True


def executor(options: GenerateOptions) -> Executor:
    """The executor that a run asks for."""
    return Inline()
