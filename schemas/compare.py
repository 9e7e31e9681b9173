"""What a user may set of a comparison of training arms, checked when it is put together."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import IDLE_IN_MLM, INPUTS, KD_WEIGHTS, TrainOptions
from textsmooth.schemas.type_checks import check_types

OBJECTIVE_PARTS = ("task", "kd", "mlm")


def _rate(text: str) -> float | str:
    """A number, or the name of a distribution."""
    try:
        return float(text)
    except ValueError:
        return text


# What an arm may set: how a student learns, not what it learns from or for how long.
SETTINGS: dict[str, Callable[[str], Any]] = {
    "lam": _rate, "temperature": float, "topk": int, "mass": float, "tail": str, "draws": int, "kd_weight": float, "kd_temperature": float,
    "lr": float, "weight_decay": float, "warmup": float, "schedule": str, "dropout": float,
}  # fmt: skip


OF_SMOOTHED = ("lam", "temperature", "topk", "mass", "tail", "draws")  # settings that plain input does not see


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, written PARTS[:name=value[:name=value …]]: `plain`, `kd+smoothed`, `smoothed:lam=0.25`.

    PARTS are joined by +: at most one form of input (plain if none is named), and objectives (the task's own loss if none is named).
    """

    name: str
    inputs: str | None  # None for mlm
    objective: str
    settings: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """UsageError if it is none."""
        head, *settings = re.split(r":(?=[\w-]*=)", text.strip())  # not the colon of beta:0.4
        parts = head.split("+")
        unknown = [part for part in parts if part not in (*INPUTS, *OBJECTIVE_PARTS)]
        if unknown or len(set(parts)) < len(parts):
            what = f"{unknown[0]!r} is none of" if unknown else "a part comes twice; take each once of"
            raise UsageError(f"arm {text!r}: {what} {', '.join((*INPUTS, *OBJECTIVE_PARTS))}")
        inputs = [part for part in parts if part in INPUTS]
        objective = "+".join(part for part in OBJECTIVE_PARTS if part in parts) or "task"
        if len(inputs) > 1:
            raise UsageError(f"arm {text!r} has two forms of input; choose one of {', '.join(INPUTS)}")
        if "mlm" in parts and (inputs or objective != "mlm"):
            raise UsageError(f"arm {text!r}: mlm goes with nothing else, its input is masked")
        form, chosen = None if objective == "mlm" else (inputs or ["plain"])[0], dict(map(_setting, settings))
        unseen = IDLE_IN_MLM if objective == "mlm" else OF_SMOOTHED if form == "plain" else ()
        idle = [name for name in chosen if name in unseen or (name == "kd_temperature" and "kd" not in objective)]
        if idle:
            needs = "kd" if idle[0] == "kd_temperature" else "smoothed input"
            raise UsageError(f"arm {text!r}: {idle[0]} changes nothing without {needs}; leave it away")
        return cls(name=text.strip(), inputs=form, objective=objective, settings=chosen)

    def options(self, common: TrainOptions) -> TrainOptions:
        """Those of a training run of this arm."""
        return replace(common, inputs=self.inputs, objective=self.objective, **self.settings)


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    name = name.replace("-", "_")
    if name not in SETTINGS:
        raise UsageError(f"an arm cannot set {name!r}, only {', '.join(SETTINGS)}")
    try:
        return name, SETTINGS[name](value)
    except ValueError:
        raise UsageError(f"{name}={value} in an arm is no {'whole number' if SETTINGS[name] is int else 'number'}") from None


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What `textsmooth compare` was asked for."""

    common: TrainOptions  # of all arms; seed, out, inputs and objective are set for each run
    arms: tuple[Arm, ...]  # the first is what the others are held against
    seeds: int = 5
    out: str | None = None  # comparisons/<dataset>
    keep_students: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if self.seeds < 1:
            raise UsageError(f"seeds must be a whole number of at least 1, not {self.seeds}")
        if len(self.arms) < 2:
            raise UsageError("a comparison needs at least two arms; give for example --arms plain,smoothed")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise UsageError(f"arms {', '.join(names)}: one comes twice")
        if len({arm.objective == "mlm" for arm in self.arms}) > 1:
            raise UsageError("mlm arms are scored on masked words, the others on the task: compare them apart")
        seen: dict[str, str] = {}
        for arm in self.arms:
            does = str(arm.options(self.common))  # which checks
            if does in seen:
                raise UsageError(f"arms {seen[does]} and {arm.name} are the same training; leave one away")
            seen[does] = arm.name

    def settings(self) -> dict[str, Any]:
        """What the score of an arm hangs on beside the arm, as JSON: a comparison goes on only with the same."""
        found = {name: value for name, value in self.common.fixed().items() if name not in ("inputs", "objective", "seed")}
        if self.arms[0].objective == "mlm":
            found["kd-weight"] = KD_WEIGHTS["mlm"]  # of an arm that names none
        return found
