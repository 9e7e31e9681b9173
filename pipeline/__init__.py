"""How the stages are put together into runs: command line, plan, executors, commit, training.

The commands as functions are here: `from textsmooth.pipeline import generate, train, verify, push, pull`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsmooth.pipeline.api import generate as generate
    from textsmooth.pipeline.api import make_student as make_student
    from textsmooth.pipeline.api import train as train
    from textsmooth.pipeline.diagnosis import doctor as doctor
    from textsmooth.pipeline.difference import diff as diff
    from textsmooth.pipeline.merging import merge as merge
    from textsmooth.pipeline.publish import push as push
    from textsmooth.pipeline.reporting import report as report
    from textsmooth.pipeline.retrieve import pull as pull
    from textsmooth.pipeline.stats import figures as figures
    from textsmooth.pipeline.verification import verify as verify

_FUNCTIONS = {
    "diff": "difference",
    "doctor": "diagnosis",
    "figures": "stats",
    "generate": "api",
    "make_student": "api",
    "merge": "merging",
    "pull": "retrieve",
    "push": "publish",
    "report": "reporting",
    "train": "api",
    "verify": "verification",
}
__all__ = ["diff", "doctor", "figures", "generate", "make_student", "merge", "pull", "push", "report", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_FUNCTIONS]
