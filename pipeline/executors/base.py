"""What runs the units of a plan. Every executor takes units and yields receipts; storage, not the executor, is what counts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.machine import Machine
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt, UnitFailure
from textsmooth.stages.storage.folder import Folder

if TYPE_CHECKING:
    pass

OnBatch = Callable[[int, int, int], None]
Outcome = Receipt | UnitFailure


class Executor(AbstractContextManager["Executor"], ABC):
    """Runs units somewhere. A context manager: on leaving, it takes down what it started. Nothing is started before it is asked for."""

    name: str  # inline, ray
    tell: Callable[..., None] = staticmethod(lambda event, **fields: None)  # as Progress.emit; set by the run

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
