"""A new training objective: an entry in schemas/objectives.py and a loss in stages/training/losses.py are all that it takes."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional as F

from textsmooth.pipeline.training.dispatch import train
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.objectives import OBJECTIVES, ObjectiveFacts
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.collate import Batch
from textsmooth.stages.training.losses import LOSSES, LossSettings, Objective
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.student_forward import forward


class _LabelSmoothing(Objective):
    """Cross-entropy with smoothed labels."""

    def __init__(self, settings: LossSettings) -> None:
        assert settings.kind.has_classes

    def loss(self, student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
        assert batch.labels is not None
        return F.cross_entropy(forward(student, batch, soft), batch.labels, label_smoothing=0.1, reduction="sum")

    def units(self, batch: Batch) -> float:
        return float(len(batch))


def test_every_objective_has_facts_and_a_loss() -> None:
    assert LOSSES.keys() == OBJECTIVES.keys()


def test_a_new_objective_trains_a_student(kit: ModuleType, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ObjectiveFacts(labels=True, task_teacher=False, teacher_share=0.0, ignored=("kd_temperature",))
    monkeypatch.setitem(OBJECTIVES, "label-smoothing", facts)
    monkeypatch.setitem(LOSSES, "label-smoothing", _LabelSmoothing)
    dataset = kit.small_dataset(tmp_path / "d")

    def options(**changes: Any) -> TrainOptions:
        settings = {"objective": "label-smoothing", "out": str(tmp_path / "out"), "lr": 5e-3, "threads": 1, "progress": "none"}
        return TrainOptions(dataset=str(dataset), student=str(student), **{**settings, **changes})

    result = train(options(max_steps=160, inputs="plain"))
    assert (result.objective, result.kind, result.metric) == ("label-smoothing", "class", "accuracy")
    assert result.metrics["accuracy"] is not None and result.metrics["accuracy"] > 0.7
    assert json.loads((result.out / "train.json").read_text())["options"]["objective"] == "label-smoothing"
    assert train(options(max_steps=160, inputs="plain")).before
    with pytest.raises(UsageError, match=r"--kd-temperature 3.0 has no effect with --objective label-smoothing; remove it"):
        options(kd_temperature=3.0)
