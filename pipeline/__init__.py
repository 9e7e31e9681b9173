"""How the stages are put together into runs: command line, plan, executors, commit, training.

The commands as functions are here: `from textsmooth.pipeline import generate, train, verify, push, pull`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textsmooth.pipeline.api import generate as generate
    from textsmooth.pipeline.api import make_student as make_student
    from textsmooth.pipeline.api import train as train

_FUNCTIONS = {
    "generate": "api",
    "make_student": "api",
    "train": "api",
}
__all__ = ["generate", "make_student", "train"]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_FUNCTIONS]
