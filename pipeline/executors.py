"""What runs the units of a plan. Every executor takes units and yields receipts; storage, not the executor, is what counts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from textsmooth.pipeline.request import Sources
from textsmooth.schemas.plan import Plan, Receipt, Unit


def inline(plan: Plan, sources: Sources, out: Path, units: Sequence[Unit], on_batch: Callable[[int, int, int], None]) -> Iterator[Receipt]:
    """Run units in this process, one worker, in order."""
    import torch

    from textsmooth.pipeline.unit import UnitWorker

    torch.set_num_threads(plan.runtime["threads"])
    yield from UnitWorker(plan, sources, out, on_batch).run(units)
