"""Run units in this process."""

from collections.abc import Iterator, Sequence
from typing import Any

from textsmooth.pipeline.executors.base import Executor, OnBatch, Outcome
from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.machine import Machine, this_machine
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.stages.storage.folder import Folder


class Inline(Executor):
    """Run units in this process, in order, with one worker. worker: a class to use instead of UnitWorker."""

    name = "inline"

    def __init__(self, worker: Any = None) -> None:
        self._class, self._stopped = worker, False
        self._worker: Any = None

    def find_machine(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        return this_machine(options, device=device, dtype=dtype)

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
