"""Options of a training run: what cannot be is refused in one line, what is not said is settled when they are put together."""

from typing import Any

import pytest

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions, as_recorded


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
        ({"loader_workers": -1}, "loader-workers must be at least 0, not -1"),
        ({"max_grad_norm": 0.0}, "max-grad-norm must be a finite number above 0, or none, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1"),
        ({"kd_weight": 1.5, "objective": "mlm"}, "kd-weight is the teacher's share of the loss, from 0 to 1, not 1.5"),
        ({"kd_weight": 0.5}, "kd-weight is a choice for --objective task\\+kd and mlm, task has none"),
        ({"kd_temperature": 0.0}, "kd-temperature must be a finite number above 0"),
        *(
            ({"objective": "mlm", name: value}, f"--{name.replace('_', '-')} {value} does nothing with --objective mlm, .*: leave it away")
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
        ({"seed": -1}, "seed must be at least 0"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32, bfloat16"),
        ({"lam": -0.1}, "lam must be between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options(**changes)


def test_what_is_not_said_is_settled_at_once() -> None:
    """It is recorded so: a run that is resumed later has the same, whatever a default is by then."""
    for objective, inputs, share in (
        *(("task", "smoothed", None), ("kd", "smoothed", None)),
        *(("task+kd", "smoothed", 0.5), ("mlm", None, 0.5)),
    ):
        made = options(objective=objective)
        assert (made.inputs, made.kd_weight) == (made.fixed()["inputs"], made.fixed()["kd-weight"]) == (inputs, share)
        assert made == TrainOptions(**made.to_json())
    assert options(objective="mlm").reads == "masked"
    assert [options(objective=objective).teacher_share for objective in ("task", "kd")] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("recorded", "today"),
    [
        ({"objective": "mlm", "inputs": "smoothed", "kd-weight": None}, {"inputs": None, "kd-weight": 1.0}),
        ({"objective": "mlm", "inputs": "plain", "kd_weight": 0.0}, {"inputs": None, "kd_weight": 0.0}),
        ({"objective": "mlm", "lam": 0.3, "tail": "original", "draws": 4}, {"lam": 0.5, "tail": "mean", "draws": None}),
        ({"objective": "mlm", "kd-temperature": 4.0}, {"kd-temperature": 2.0}),
        ({"objective": "task+kd", "inputs": "both", "kd_weight": None}, {"inputs": "both", "kd_weight": 0.5}),
        ({"objective": "kd", "inputs": "plain", "kd-weight": None}, {"inputs": "plain", "kd-weight": None}),
    ],
)
def test_what_earlier_runs_recorded_means_what_it_meant_then(recorded: dict[str, Any], today: dict[str, Any]) -> None:
    assert as_recorded(recorded) == {"objective": recorded["objective"], **today}
    assert as_recorded(options(objective=recorded["objective"]).fixed()) == options(objective=recorded["objective"]).fixed()
