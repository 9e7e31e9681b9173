"""What runs the units of a plan. Every executor takes units and yields receipts; storage, not the executor, is what counts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from textsmooth.pipeline.request import Sources
from textsmooth.schemas.plan import Plan, Receipt, Unit


class Inline:
    """Runs units in this process, one worker, in order. Made before anything is written: a teacher that does not load is told then.

    on_batch is told of every forward pass: real tokens, padded tokens, rows.
    """

    def __init__(self, plan: Plan, sources: Sources, out: Path, on_batch: Callable[[int, int, int], None]) -> None:
        import torch

        from textsmooth.pipeline.unit import UnitWorker

        torch.set_num_threads(plan.runtime["threads"])
        self._worker = UnitWorker(plan, sources, out, on_batch)

    def run(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        """The receipt of each unit, as soon as it is on storage."""
        return self._worker.run(units)
