"""Run the checks of `textsmooth doctor`. A check that raises is reported as a problem, and the others still run."""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from textsmooth.pipeline.diagnostics import libraries, machine, places
from textsmooth.pipeline.diagnostics.check_result import CheckResult, Group
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import TextsmoothError, UsageError, first_line

CLUSTER, TRIAL = Group("Ray cluster"), Group("Trial")
ROWS = 32  # of the demo corpus
AGAIN = "see to that, then run textsmooth doctor again"

Check = tuple[Group, str, Callable[[], Iterator[CheckResult]], str]  # group, name, check, and the remedy if an error does not name one


def doctor(*, out: str | Path | None = None, ray_address: str | None = None, trial: bool = True) -> list[CheckResult]:
    """Run all checks. Nothing is raised: a check that fails is a result whose state is `problem`.

    out: a folder or s3://…, gs://… that is tried. ray_address: a cluster to join; default: RAY_ADDRESS, if set.
    """
    return list(examine(out=None if out is None else str(out), ray_address=ray_address, trial=trial))


def examine(*, out: str | None = None, ray_address: str | None = None, trial: bool = True, debug: bool = False) -> Iterator[CheckResult]:
    """As `doctor`, one result after the other. debug: raise what goes wrong in a check."""
    for group, name, check, remedy in _checks(out, ray_address or os.environ.get("RAY_ADDRESS"), trial=trial):
        try:
            yield from check()
        except Exception as error:
            if debug:
                raise
            yield _result_of_error(group, name, error, remedy)


def _result_of_error(group: Group, name: str, error: Exception, remedy: str) -> CheckResult:
    """The result of a check that raised. remedy: for an error of textsmooth that names none."""
    if isinstance(error, TextsmoothError):
        return group.error(name, error, remedy)
    advice = "textsmooth doctor --debug shows the traceback"
    if isinstance(error, ImportError):
        advice = "repair the libraries, then run textsmooth doctor again"
    elif isinstance(error, OSError):
        advice = "check the path, its permissions and the space left"
    return group.problem(name, f"failed: {type(error).__name__}: {first_line(error)}", advice)


def _checks(out: str | None, ray_address: str | None, *, trial: bool) -> Iterator[Check]:
    yield libraries.LIBRARIES, "textsmooth", libraries.python, AGAIN
    yield libraries.LIBRARIES, "libraries", libraries.libraries, AGAIN
    yield libraries.LIBRARIES, "extras", libraries.extras, AGAIN
    yield machine.MACHINE, "CPU", machine.cpus, AGAIN
    yield machine.MACHINE, "memory", machine.memory, AGAIN
    yield machine.MACHINE, "GPU", machine.gpus, AGAIN
    yield machine.MACHINE, "--device auto --dtype auto", machine.choice, AGAIN
    yield places.HUB, "endpoint", places.hub, AGAIN
    yield places.CACHE, "cache", places.copies, AGAIN
    if out is not None:
        yield places.OUT, "--out", partial(places.out, out), "give another --out"
    if ray_address:
        yield CLUSTER, "nodes", partial(_cluster, ray_address), "check the address; on the head of the cluster, `ray status` shows it"
    if trial:
        yield TRIAL, "demo", _trial, AGAIN


def _cluster(address: str) -> Iterator[CheckResult]:
    """Join the cluster as a run would; Ray refuses if its version or Python's differs there."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError('that needs Ray: pip install "textsmooth[ray]"')
    from textsmooth.pipeline.executors.ray_driver import RayExecutor

    cluster = RayExecutor(GenerateOptions(corpus="demo", ray_address=address))
    with cluster:
        nodes = cluster.nodes()
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    what = f"{len(nodes)} at {address}, with {total['CPU']:g} CPUs and {total['GPU']:g} GPUs"
    yield CLUSTER.ok("nodes", f"{what}; Ray and Python there are as here")


def _trial() -> Iterator[CheckResult]:
    """Smooth and verify a few rows of the demo in a temporary folder."""
    from textsmooth.pipeline.generation.run import generate
    from textsmooth.pipeline.verification.run import verify

    with tempfile.TemporaryDirectory(prefix="textsmooth-doctor-") as folder:
        place = str(Path(folder) / "dataset")
        made = generate(GenerateOptions(corpus="demo", splits=("train",), limit=ROWS, out=place, executor="inline"))
        found = verify(place)
    if found.findings:
        yield TRIAL.problem(
            "demo", f"what was written is not what is there: {found.findings[0]}", "check the disk and memory of this machine"
        )
        return
    rate = f"{made.tokens:,} tokens in {made.run_s:.2f} s, {made.tokens / made.run_s:,.0f} tokens/s"
    yield TRIAL.ok("demo", f"{found.rows} rows smoothed and verified: {rate} with the demo's small teacher")
