"""How the stages are put together into runs: command line, plan, executors, commit, training.

The commands as functions are here: `from textsmooth.pipeline import generate, train, verify, push, pull`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.version import VERSION as __version__

if TYPE_CHECKING:
    from textsmooth.pipeline.api import generate as generate
    from textsmooth.pipeline.api import make_student as make_student
    from textsmooth.pipeline.api import train as train
    from textsmooth.pipeline.diagnostics.run import doctor as doctor
    from textsmooth.pipeline.inspect.report import report as report
    from textsmooth.pipeline.inspect.stats import figures as figures
    from textsmooth.pipeline.share.convert import convert as convert
    from textsmooth.pipeline.share.diff import diff as diff
    from textsmooth.pipeline.share.merge import merge as merge
    from textsmooth.pipeline.share.pull import pull as pull
    from textsmooth.pipeline.share.push import push as push
    from textsmooth.pipeline.verification.run import verify as verify

_FUNCTIONS = {
    "diff": "share.diff",
    "doctor": "diagnostics.run",
    "figures": "inspect.stats",
    "generate": "api",
    "make_student": "api",
    "convert": "share.convert",
    "merge": "share.merge",
    "pull": "share.pull",
    "push": "share.push",
    "report": "inspect.report",
    "train": "api",
    "verify": "verification.run",
}
__all__ = [
    "__version__",
    "convert",
    "diff",
    "doctor",
    "figures",
    "generate",
    "make_student",
    "merge",
    "pull",
    "push",
    "report",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
