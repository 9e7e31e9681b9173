"""Arms of a comparison are read as written; what cannot be compared is refused in one line."""

from typing import Any

import pytest

from textsmooth.schemas.compare import Arm, CompareOptions
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions

COMMON = TrainOptions(dataset="d", student="s")


@pytest.mark.parametrize(
    ("text", "inputs", "objective", "settings"),
    [
        ("plain", "plain", "task", {}),
        ("both", "both", "task", {}),
        ("kd", "plain", "kd", {}),
        ("kd+smoothed", "smoothed", "kd", {}),
        ("mixed+kd+task", "mixed", "task+kd", {}),
        ("mlm:kd-weight=0", None, "mlm", {"kd_weight": 0.0}),
        ("smoothed:lam=beta:0.4:topk=3", "smoothed", "task", {"lam": "beta:0.4", "topk": 3}),
        ("smoothed:lam=uniform:temperature=2:topk=8", "smoothed", "task", {"lam": "uniform", "temperature": 2.0, "topk": 8}),
    ],
)
def test_an_arm_is_read(text: str, inputs: str | None, objective: str, settings: dict[str, Any]) -> None:
    assert Arm.parse(text) == Arm(name=text, inputs=inputs, objective=objective, settings=settings)
    options = Arm.parse(text).options(COMMON)
    assert (options.inputs, options.objective) == (inputs, objective)
    assert all(getattr(options, name) == value for name, value in settings.items())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is none of plain"),
        ("plian", "'plian' is none of plain"),
        ("kd+kd", "a part comes twice"),
        ("plain+smoothed", "two forms of input"),
        ("mlm+smoothed", "mlm goes with nothing else"),
        ("mlm+kd", "mlm goes with nothing else"),
        ("smoothed:epochs=3", "cannot set 'epochs'"),
        ("smoothed:topk=two", "topk=two in an arm is not a whole number"),
        ("smoothed:lam", "'smoothed:lam' is none of"),
        ("smoothed:lam=", "lam must be"),
        ("plain:lam=0.2", "lam has no effect without smoothed input"),
        ("kd:tail=mean", "tail has no effect without smoothed input"),
        ("mlm:draws=4", "draws has no effect without smoothed input"),
        ("smoothed:kd-temperature=4", "kd_temperature has no effect without kd"),
    ],
)
def test_what_is_no_arm_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Arm.parse(text).options(COMMON)


@pytest.mark.parametrize(
    ("arms", "seeds", "told"),
    [
        (("plain",), 3, "at least two arms"),
        (("plain", "plain"), 3, "one comes twice"),
        (("plain", "mlm"), 3, "compare them separately"),
        (("mlm", "mlm:kd-weight=0.5"), 3, "arms mlm and mlm:kd-weight=0.5 are the same training"),
        (("smoothed", "smoothed:lam=0.5"), 3, "arms smoothed and smoothed:lam=0.5 are the same training"),
        (("plain", "smoothed"), 0, "seeds must be"),
        (("plain", "smoothed:lam=2"), 3, "lam must be"),
    ],
)
def test_what_cannot_be_compared_is_told(arms: tuple[str, ...], seeds: int, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        CompareOptions(common=COMMON, arms=tuple(map(Arm.parse, arms)), seeds=seeds)


def test_a_comparison_of_masked_words_is_that_of_its_default_share() -> None:
    """Its arms do not name it: scores that were made with another one are not to stand beside new ones."""
    asked = (("mlm", "mlm:kd-weight=0"), ("kd", "plain"))
    masked, labels = (CompareOptions(common=COMMON, arms=tuple(map(Arm.parse, arms))) for arms in asked)
    assert (masked.settings()["kd-weight"], labels.settings()["kd-weight"]) == (0.5, None)
    with pytest.raises(UsageError, match=r"--lam 0\.3 has no effect with --objective mlm"):
        CompareOptions(common=TrainOptions(dataset="d", student="s", lam=0.3), arms=masked.arms)
