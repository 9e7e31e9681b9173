"""Interface of an executor: it takes the units of a plan and yields their receipts. The receipts on storage are what counts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.machine import Machine
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import Receipt, UnitFailure
from textsmooth.stages.storage.folder import Folder

OnBatch = Callable[[int, int, int], None]
Outcome = Receipt | UnitFailure


class Executor(AbstractContextManager["Executor"], ABC):
    """Run units somewhere. A context manager: at the end it stops what it started. Nothing is started before it is needed."""

    name: str  # inline, ray
    tell: Callable[..., None] = staticmethod(lambda event, **fields: None)  # as Progress.emit; set by the run

    @property
    def num_workers(self) -> int:
        """The most workers that run units; known once they are loaded."""
        return 1

    @property
    def retries(self) -> int:
        """How often workers died and were replaced."""
        return 0

    @abstractmethod
    def find_machine(self, options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
        """`this_machine` of plan/machine.py, called on a machine where units will run."""

    @abstractmethod
    def load(self, plan: Plan, sources: Sources, out: Folder, on_batch: OnBatch) -> None:
        """Load the teacher for the units of a plan. Called before anything is written: a teacher may fail to load.

        on_batch is called after every forward pass: real tokens, padded tokens, rows.
        """

    @abstractmethod
    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Yield the outcome of each unit as soon as it is on storage; none for units that `stop` kept from beginning."""

    @abstractmethod
    def stop(self) -> None:
        """Begin no further unit; finish those that run. May be called from a signal handler."""

    def __exit__(self, *args: object) -> None:
        """Stop what was started."""
