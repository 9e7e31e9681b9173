"""TrainOptions: invalid values are refused in one line, defaults that depend on other options are set at construction."""

from typing import Any

import pytest

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions


def options(**changes: Any) -> TrainOptions:
    return TrainOptions(dataset="d", student="s", **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": "none"}, "inputs 'none' is not one of plain, smoothed, both, mixed"),
        ({"objective": "labels"}, "objective 'labels' is not one of task, kd, task\\+kd, mlm"),
        ({"schedule": "step"}, "schedule 'step' is not one of linear, cosine, constant"),
        ({"progress": "loud"}, "progress 'loud' is not one of auto, rich, json, none"),
        ({"batch_size": 8, "batch_tokens": 100}, "batch-size and batch-tokens exclude each other"),
        ({"batch_tokens": 0}, "batch-tokens must be a whole number of at least 1, not 0"),
        ({"accumulate": 0}, "accumulate must be"),
        ({"num_workers": 0}, "num-workers must be"),
        ({"loader_workers": -1}, "loader-workers must be a whole number of at least 0, not -1"),
        ({"max_grad_norm": 0.0}, "max-grad-norm must be a finite number above 0, or none, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1"),
        ({"kd_weight": 1.5, "objective": "mlm"}, "kd-weight is the teacher's share of the loss, from 0 to 1, not 1.5"),
        ({"kd_weight": 0.5}, "kd-weight has no effect with --objective task, only with task\\+kd and mlm; remove it"),
        ({"kd_temperature": 0.0}, "kd-temperature must be a finite number above 0"),
        *(
            ({"objective": "mlm", name: value}, f"--{name.replace('_', '-')} {value} has no effect with --objective mlm, .*; remove it")
            for name, value in (
                *(("inputs", value) for value in ("plain", "smoothed", "both", "mixed")),
                *(("lam", 0.3), ("lam", "uniform"), ("tail", "original"), ("draws", 4), ("kd_temperature", 1.0)),
            )
        ),
        ({"lam": "beta:0"}, "lam beta:A needs a finite A above 0"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"lr": float("nan")}, "lr must be a finite number above 0"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"weight_decay": -1.0}, "weight-decay must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32, bfloat16"),
        ({"lam": -0.1}, "lam must be between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options(**changes)


def test_defaults_that_depend_on_the_objective_are_set_at_construction() -> None:
    """They are recorded, so a run that is resumed later has the same, whatever a default is by then."""
    for objective, inputs, share in (
        *(("task", "smoothed", None), ("kd", "smoothed", None)),
        *(("task+kd", "smoothed", 0.5), ("mlm", None, 0.5)),
    ):
        made = options(objective=objective)
        assert (made.inputs, made.kd_weight) == (made.fixed()["inputs"], made.fixed()["kd-weight"]) == (inputs, share)
        assert made == TrainOptions(**made.to_json())
    assert options(objective="mlm").reads == "masked"
    assert [options(objective=objective).teacher_share for objective in ("task", "kd")] == [0.0, 1.0]
