"""Options that Python code gives: a value of another type is one line, not a TypeError from somewhere inside."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.train import TrainOptions
from textsmooth.schemas.type_checks import check_types


@dataclass(frozen=True, kw_only=True)
class Options:
    name: str = ""
    count: int | None = None
    rate: float | str = 0.5
    several: tuple[float, ...] = ()
    flag: bool = False
    other: dict[str, int] | None = None  # not looked at

    def __post_init__(self) -> None:
        check_types(self)


@pytest.mark.parametrize(
    "good",
    [
        {}, {"count": 3}, {"count": np.int64(3)}, {"rate": 1}, {"rate": np.float32(0.25)}, {"rate": "uniform"}, {"several": (1, 2.5)},
        {"several": [1.0]}, {"flag": True}, {"other": 5},
    ],
)  # fmt: skip
def test_values_of_the_declared_types(good: dict[str, Any]) -> None:
    Options(**good)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"name": None}, "name must be a text, not None"),
        ({"count": 2.5}, "count must be a whole number or None, not 2.5"),
        ({"count": True}, "count must be a whole number or None, not True"),
        ({"rate": None}, "rate must be a number or a text, not None"),
        ({"several": 2.0}, "several must be a tuple, each a number, not 2.0"),
        ({"several": ("a",)}, "several must be a tuple, each a number, not ('a',)"),
        ({"flag": 1}, "flag must be True or False, not 1"),
    ],
)
def test_a_value_of_another_type(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        Options(**bad)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("kind", "given", "bad"),
    [(TrainOptions, {"dataset": "d", "student": "s"}, "lr"), (GenerateOptions, {"corpus": "demo"}, "topk"), (Smoothing, {}, "mass")],
)
def test_the_options_of_every_command_are_looked_at(kind: type, given: dict[str, str], bad: str) -> None:
    with pytest.raises(UsageError, match=f"^{bad} must be a"):
        kind(**given, **{bad: "fast"})


@pytest.mark.parametrize("kind", [TrainOptions, GenerateOptions, Smoothing])
def test_no_field_of_theirs_escapes(kind: type) -> None:
    from dataclasses import fields

    from textsmooth.schemas.type_checks import _declared

    assert set(_declared(kind)) == {f.name for f in fields(kind)}
