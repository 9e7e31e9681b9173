"""Options of `textsmooth compare`: the arms, seeds and common training options, checked at construction."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.objectives import OBJECTIVES
from textsmooth.schemas.train import INPUTS, TrainOptions
from textsmooth.schemas.type_checks import check_types

PARTS = (*INPUTS, *dict.fromkeys(part for name in OBJECTIVES for part in name.split("+")))


def _rate(text: str) -> float | str:
    """lam: a number, or the name of a distribution."""
    try:
        return float(text)
    except ValueError:
        return text


# What an arm may set: how a student learns, not on which data or for how long. Values are converters from text.
SETTINGS: dict[str, Callable[[str], Any]] = {
    "lam": _rate, "temperature": float, "topk": int, "mass": float, "tail": str, "draws": int, "kd_weight": float, "kd_temperature": float,
    "lr": float, "weight_decay": float, "warmup": float, "schedule": str, "dropout": float,
}  # fmt: skip


OF_SMOOTHED = ("lam", "temperature", "topk", "mass", "tail", "draws")  # settings without effect on plain input


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, written PARTS[:name=value[:name=value …]]: `plain`, `kd+smoothed`, `smoothed:lam=0.25`.

    PARTS are joined by +: at most one form of input (default plain) and an objective (default task).
    """

    name: str
    inputs: str | None  # None for mlm
    objective: str
    settings: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """Read an arm. UsageError for an unknown part, parts that exclude each other, or a setting without effect."""
        head, *settings = re.split(r":(?=[\w-]*=)", text.strip())  # not the colon of beta:0.4
        parts = head.split("+")
        unknown = [part for part in parts if part not in PARTS]
        if unknown or len(set(parts)) < len(parts):
            problem = f"{unknown[0]!r} is none of" if unknown else "a part comes twice; take each once of"
            raise UsageError(f"arm {text!r}: {problem} {', '.join(PARTS)}")
        inputs = [part for part in parts if part in INPUTS]
        if len(inputs) > 1:
            raise UsageError(f"arm {text!r} has two forms of input; choose one of {', '.join(INPUTS)}")
        masked = [part for part in parts if part in OBJECTIVES and OBJECTIVES[part].masked]
        if masked and len(parts) > 1:
            raise UsageError(f"arm {text!r}: {masked[0]} goes with nothing else, its input is masked")
        objective = "+".join(part for part in PARTS if part in parts and part not in INPUTS) or TrainOptions.objective
        if objective not in OBJECTIVES:
            raise UsageError(f"arm {text!r}: there is no objective {objective}; choose one of {', '.join(OBJECTIVES)}")
        form, chosen = None if masked else (inputs or ["plain"])[0], dict(map(_setting, settings))
        facts = OBJECTIVES[objective]
        ignored = facts.ignored if masked else OF_SMOOTHED if form == "plain" else ()
        for name in chosen:
            if name == "kd_temperature" and not facts.task_teacher:
                raise UsageError(f"arm {text!r}: {name} has no effect without kd; remove it")
            if name in ignored:
                raise UsageError(f"arm {text!r}: {name} has no effect without smoothed input; remove it")
        return cls(name=text.strip(), inputs=form, objective=objective, settings=chosen)

    def options(self, common: TrainOptions) -> TrainOptions:
        """The options of this arm's training run."""
        return replace(common, inputs=self.inputs, objective=self.objective, **self.settings)


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    name = name.replace("-", "_")
    if name not in SETTINGS:
        raise UsageError(f"an arm cannot set {name!r}, only {', '.join(SETTINGS)}")
    try:
        return name, SETTINGS[name](value)
    except ValueError:
        raise UsageError(f"{name}={value} in an arm is not a {'whole number' if SETTINGS[name] is int else 'number'}") from None


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `textsmooth compare`. UsageError for a value that is not allowed."""

    common: TrainOptions  # shared by all arms; seed, out, inputs and objective are set per run
    arms: tuple[Arm, ...]  # the others are compared with the first
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
        if len({OBJECTIVES[arm.objective].masked for arm in self.arms}) > 1:
            raise UsageError("mlm arms are scored on masked tokens, the others on the task: compare them separately")
        arm_of: dict[str, str] = {}
        for arm in self.arms:
            options = str(arm.options(self.common))  # this checks them too
            if options in arm_of:
                raise UsageError(f"arms {arm_of[options]} and {arm.name} are the same training; remove one")
            arm_of[options] = arm.name

    def settings(self) -> dict[str, Any]:
        """The settings that decide the scores beside the arms, as JSON: a comparison resumes only with the same."""
        settings = {name: value for name, value in self.common.fixed().items() if name not in ("inputs", "objective", "seed")}
        facts = OBJECTIVES[self.arms[0].objective]
        if facts.masked:
            settings["kd-weight"] = facts.teacher_share  # of an arm that sets none
        return settings
