"""Whole runs of each objective: from a dataset with what it needs to a saved student with the right head."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers_gen import Ran, write_jsonl
from helpers_verify import Kinds
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering

from textsmooth.pipeline.training.data import corpus_rows
from textsmooth.pipeline.training.dispatch import train
from textsmooth.pipeline.training.result import TrainResult
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.models.student_init import make_student


@pytest.fixture
def options(student: Path, tmp_path: Path) -> Callable[..., TrainOptions]:
    def make(dataset: Path, **changes: Any) -> TrainOptions:
        shared = {"student": str(student), "out": str(tmp_path / "out"), "threads": 1, "lr": 5e-3, "progress": "none"}
        return TrainOptions(dataset=str(dataset), **{**shared, **changes})  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(
    ("objective", "inputs"),
    [pytest.param("kd", "plain", marks=pytest.mark.slow), ("kd", "smoothed"), pytest.param("task+kd", "both", marks=pytest.mark.slow)],
)
def test_a_task_teacher_is_distilled(
    kit: ModuleType, options: Callable[..., TrainOptions], tmp_path: Path, objective: str, inputs: str
) -> None:
    folder = kit.small_dataset(tmp_path / "d", task_teacher=True)
    made = train(options(folder, objective=objective, inputs=inputs, max_steps=160, kd_temperature=2.0))
    assert made.metrics["accuracy"] is not None and made.metrics["accuracy"] > 0.9
    assert (made.objective, made.inputs, made.kind) == (objective, inputs, "class")


def test_kd_needs_no_labels(kit: ModuleType, options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    block = kit.random_rows(1, 40).block
    unlabelled = dataclasses.replace(block, label=np.full(40, -1))
    folder = kit.write_dataset(tmp_path / "d", {"train": [unlabelled]}, task_teacher=True)
    made = train(options(folder, objective="kd", epochs=1))
    assert (made.rows, made.unlabelled_rows, made.metrics) == (40, 0, {})
    with pytest.raises(DatasetError, match=r"no row of split 'train' in .* has a label"):
        train(options(folder, objective="task+kd", overwrite=True))
    bare = kit.write_dataset(tmp_path / "bare", {"train": [dataclasses.replace(block, label=None)]}, label_kind=None, task_teacher=True)
    assert train(options(bare, objective="kd", epochs=1, overwrite=True)).rows == 40


def test_values_of_a_task_teacher(kit: ModuleType, options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    folder = kit.small_dataset(tmp_path / "d", label_kind="value", label_names=None, task_teacher=True)
    made = train(options(folder, objective="kd", max_steps=160))
    assert made.metric == "pearson" and made.metrics["pearson"] is not None and made.metrics["pearson"] > 0.5


def test_masked_tokens_are_distilled(kit: ModuleType, options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    folder = kit.small_dataset(tmp_path / "d", context="masked:3")
    first = train(options(folder, objective="mlm", max_steps=1, warmup=0.0, lr=1e-9))
    made = train(options(folder, objective="mlm", epochs=6, temperature=2.0, overwrite=True))
    assert (made.inputs, made.kind, made.metric) == ("masked", "mlm", "nll")
    assert made.metrics["kl"] is not None and made.metrics["kl"] < first.metrics["kl"] - 0.1
    assert 'pipeline("fill-mask"' in made.summary()
    saved = AutoModelForMaskedLM.from_pretrained(made.out)
    assert saved.get_output_embeddings().weight.data_ptr() == saved.get_input_embeddings().weight.data_ptr()


def test_masked_tokens_need_no_labels(kit: ModuleType, options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    folder = kit.write_dataset(tmp_path / "d", {"train": [kit.random_rows(1, 8).block]}, context="masked:3")
    made = train(options(folder, objective="mlm", max_steps=1))
    assert "score    not evaluated: the dataset has no validation split; choose one with --eval-split" in made.summary()
    with pytest.raises(UsageError, match=r"this dataset has no validation split; give --eval-split$"):
        train(options(folder, objective="mlm", max_steps=1, patience=1, eval_every=1, overwrite=True))
    task = dataclasses.replace(made, kind="class", steps=1, rows=1, unlabelled_rows=1)
    assert "the dataset has no labelled validation split" in task.summary()
    assert "trained  1 update, masked input, from 1 row, 1 unlabelled row left out" in task.summary()


def test_windows_are_told_from_rows(kinds: Kinds) -> None:
    dataset = SmoothedDataset(kinds["windows"][0], "train")
    row = np.concatenate([batch.column("row").to_numpy() for batch in dataset.record_batches()])
    assert corpus_rows(dataset, None) == 30 < len(dataset)
    used = np.arange(len(dataset)) % 5 != 2
    used[len(dataset) // 2 :] = False
    assert corpus_rows(dataset, used) == len(set(row[used].tolist())) < used.sum()
    assert corpus_rows(SmoothedDataset(kinds["single"][0], "train"), None) is None
    counts = {"out": Path("out"), "inputs": "plain", "objective": "task", "kind": "class", "metric": "accuracy", "metrics": {}}
    made = TrainResult(**counts, eval_split=None, steps=2, saved_step=2, rows=22, corpus_rows=17, unlabelled_rows=0, tokens=9, train_s=1.0)
    assert "trained  2 updates, plain input, from 22 windows of 17 rows\n" in made.summary()
    then = dataclasses.asdict(made) | {"seconds": {"train": 1.0}}
    assert TrainResult.from_json(then, made.out) == made
    del then["corpus_rows"]  # of a version that did not write it
    assert TrainResult.from_json(then, made.out) == dataclasses.replace(made, corpus_rows=None)


def test_a_masked_run_in_parts_is_that_run(kit: ModuleType, options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    folder = kit.small_dataset(tmp_path / "d", context="masked:3")
    runs = [
        options(folder, out=str(tmp_path / f"{n}"), objective="mlm", epochs=1, dropout=0.0, accumulate=n, kd_weight=0.3) for n in (1, 3)
    ]
    losses = [[event["loss"] for event in kit.events(train(run).out / "log.jsonl")] for run in runs]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)


def questions(rows: int, films: int = 0) -> list[dict[str, Any]]:
    """The answer is always the word after `is`."""
    words = ("good", "bad", "fine", "great", "poor", "dull", "sharp", "flat")
    found = []
    for row in range(rows):
        word = words[row % len(words)]
        context = f"the film {films + row % 5} is {word} today"
        answers = {"text": [word], "answer_start": [context.index(word)]}
        found.append({"id": str(row), "question": "how is the film", "context": context, "answers": answers})
    return found


def test_answers_are_learned(gen: Callable[..., Ran], teacher: Path, options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus/train.jsonl", questions(64))
    write_jsonl(tmp_path / "corpus/validation.jsonl", questions(16, films=5))
    (tmp_path / "corpus/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.jsonl}\n"
        "  - {split: validation, path: validation.jsonl}\n---\n"
    )
    made = gen("--corpus", tmp_path / "corpus", "--out", tmp_path / "d", "--topk", 3)
    assert made.code == 0, made.err
    make_student(teacher, (0,), tmp_path / "student")
    result = train(options(tmp_path / "d", student=str(tmp_path / "student"), epochs=12))
    assert (result.kind, result.metric) == ("span", "f1")
    assert result.metrics["f1"] is not None and result.metrics["f1"] > 0.5 and result.metrics["exact_match"] is not None
    assert AutoModelForQuestionAnswering.from_pretrained(result.out).config.model_type == "bert"
    with pytest.raises(UsageError, match="--rows-per-class needs labels that are classes"):
        train(options(tmp_path / "d", student=str(tmp_path / "student"), rows_per_class=3, overwrite=True))
