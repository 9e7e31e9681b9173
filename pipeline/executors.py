"""What runs the units of a plan. Every executor takes units and yields receipts; storage, not the executor, is what counts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from textsmooth.pipeline.request import Sources
from textsmooth.schemas.plan import Plan, Receipt, Unit


def inline(
    plan: Plan,
    sources: Sources,
    out: Path,
    units: Sequence[Unit],
    on_batch: Callable[[int, int, int], None],
    on_ready: Callable[[], None],
) -> Iterator[Receipt]:
    """Run units in this process, one worker, in order. on_ready is told when the teacher is loaded, on_batch of forward passes."""
    import torch

    from textsmooth.pipeline.unit import UnitWorker

    torch.set_num_threads(plan.runtime["threads"])
    worker = UnitWorker(plan, sources, out, on_batch)
    on_ready()
    yield from worker.run(units)
