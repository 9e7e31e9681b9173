"""Training runs from a dataset and a student to a saved model; the teacher is gone all along."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from textsmooth.pipeline.cli.train import student as student_command
from textsmooth.pipeline.cli.train import train as train_command
from textsmooth.pipeline.progress import TrainProgress
from textsmooth.pipeline.training import setup as train_setup
from textsmooth.pipeline.training.dispatch import train
from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.errors import ConflictError, DatasetError, MachineError, TeacherError, TextsmoothError, UsageError
from textsmooth.schemas.manifest import FileEntry
from textsmooth.schemas.task_kinds import CLASS
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.training.evaluate import metrics, predict
from textsmooth.stages.training.step import TrainingError


@pytest.fixture
def options(smoothed, student, tmp_path):
    def make(**changes):
        given = {"dataset": str(smoothed), "student": str(student), "out": str(tmp_path / "out"), "threads": 1, "lr": 5e-3, **changes}
        return TrainOptions(**given)

    return make


@pytest.mark.parametrize(
    "inputs", [pytest.param("plain", marks=pytest.mark.slow), "smoothed", "both", pytest.param("mixed", marks=pytest.mark.slow)]
)
def test_a_student_learns_and_is_saved_whole(kit, options, smoothed, tmp_path, monkeypatch, inputs):
    students = []
    load = train_setup.load_student
    monkeypatch.setattr(train_setup, "load_student", lambda *a, **k: students.append(load(*a, **k)) or students[-1])
    result = train(options(inputs=inputs, epochs=8 if inputs == "both" else 16))
    assert result.steps == 160  # equal updates: 10 batches, once or twice in each epoch
    assert result.metrics["accuracy"] > 0.9
    assert result.tokens == 16 * SmoothedDataset(smoothed, "train").lengths.sum()

    out = tmp_path / "out"
    assert (out / "model.safetensors").is_file() and not list(out.glob("*.bin"))
    saved = AutoModelForSequenceClassification.from_pretrained(out)
    assert saved.config.id2label == {0: "even", 1: "odd"}
    validation = SmoothedDataset(smoothed, "validation")
    logits = predict(saved, validation, np.arange(60), pad_id=kit.PAD)
    np.testing.assert_array_equal(logits, predict(students[0], validation, np.arange(60), pad_id=kit.PAD))
    assert metrics(logits, validation.labels, CLASS) == result.metrics
    assert AutoTokenizer.from_pretrained(out)("w5 w6")["input_ids"] == [kit.CLS, 5, 6, kit.SEP]

    record = json.loads((out / "train.json").read_text())
    assert record["metrics"] == result.metrics and record["options"]["inputs"] == inputs
    assert record["dataset"]["digest"] == validation.manifest.dataset
    assert [entry["epoch"] for entry in record["history"]] == list(range(1, len(record["history"]) + 1))
    assert len(kit.events(out / "log.jsonl")) == 160
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["class", "value"])
def test_a_student_that_diverges_before_an_evaluation_is_told(kit, options, tmp_path, kind):
    folder = kit.small_dataset(tmp_path / "d", label_kind=kind, label_names=("even", "odd") if kind == "class" else None)
    with pytest.raises(
        TrainingError, match="the student's predictions on validation are not finite numbers; lower --lr; nothing was saved"
    ):
        train(options(dataset=str(folder), max_steps=1, lr=1e30, warmup=0.0))


def test_a_temperature_that_is_not_stored_is_told(options, tmp_path, capsys):
    """Stored are 0.5, 1 and 2."""
    made = train(options(max_steps=2, temperature=1.9, progress="auto"))
    (started,) = [json.loads(line) for line in (made.out / "log.jsonl").read_text().splitlines() if "started" in line]
    assert started["note"].startswith("temperature 1.9 is not stored (it has 0.5, 1, 2): interpolated, probabilities off by at most 0.0")
    assert started["note"] in capsys.readouterr().err
    exact = train(options(max_steps=2, temperature=2.0, overwrite=True))
    assert "note" not in (exact.out / "log.jsonl").read_text()


def test_few_entries_at_a_high_temperature_are_warned_of(options, tmp_path, capsys):
    train(options(max_steps=1, temperature=2.0, topk=1, progress="auto"))
    err = capsys.readouterr().err
    assert "warning: the top 1 hold on average" in err and "at temperature 2. For the rest a student reads the mean embedding" in err
    for quiet in ({"inputs": "plain"}, {"temperature": 2.0, "topk": 1, "tail": "renormalize"}, {"temperature": 0.5}):
        train(options(max_steps=1, progress="auto", overwrite=True, **quiet))
        assert "warning" not in capsys.readouterr().err


def test_equal_seeds_give_equal_weights(options, tmp_path):
    def weights(name, **changes):
        train(options(out=str(tmp_path / name), inputs="both", epochs=1, tail="mean", temperature=2.0, **changes))
        return load_file(tmp_path / name / "model.safetensors")

    first, again, other = weights("a"), weights("b"), weights("c", seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_lam_0_is_plain_training(options, tmp_path):
    results = [train(options(out=str(tmp_path / i), inputs=i, lam=0.0, epochs=1)).metrics["loss"] for i in ("plain", "smoothed")]
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_steps_and_rows_can_be_limited(options):
    result = train(options(max_steps=7, max_rows=50, batch_size=8, inputs="both"))
    assert (result.steps, result.rows) == (7, 50)
    longer = train(options(max_steps=40, max_rows=50, epochs=1, overwrite=True))
    assert longer.steps == 40  # more than an epoch has


def test_bfloat16_and_values(kit, options, tmp_path):
    folder = kit.small_dataset(tmp_path / "values", label_kind="value", label_names=None)
    result = train(options(dataset=str(folder), dtype="bfloat16", epochs=16))
    assert result.metric == "pearson" and result.metrics["pearson"] > 0.5
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert saved.config.problem_type == "regression" and saved.dtype == torch.float32


def _relabel(block, labels):
    return dataclasses.replace(block, label=np.array(labels, np.int64))


def test_unlabelled_rows_are_left_out_and_counted(kit, options, tmp_path):
    block = kit.random_rows(1, 20).block
    some = _relabel(block, [-1] * 5 + block.label[5:].tolist())
    folder = kit.write_dataset(tmp_path / "d", {"train": [some], "validation": [_relabel(block, [-1] * 20)]}, label_names=None)
    console = Console(record=True, width=200)
    result = train(options(dataset=str(folder), epochs=1), TrainProgress(console))
    assert (result.rows, result.unlabelled_rows, result.eval_split, result.metrics) == (15, 5, None, {})
    assert "5 of 20 training rows have no label" in console.export_text()
    assert "5 unlabelled rows left out" in result.summary() and "not evaluated" in result.summary()
    with pytest.raises(DatasetError, match=r"no row of split 'validation' in .* has a label"):
        train(options(dataset=str(folder), eval_split="validation", overwrite=True))


def test_a_bar_on_a_terminal(options):
    console = Console(record=True, force_terminal=True, width=120)
    train(options(epochs=1), TrainProgress(console))
    assert "epoch 1  10 updates" in console.export_text()


def test_json_lines_are_those_of_the_log(options, capsys):
    made = train(options(epochs=2, inputs="both", progress="json"))
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith('{"event"')]
    assert shown == [json.loads(line) for line in (made.out / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in shown] == ["started", *["update"] * 20, "evaluation", *["update"] * 20, "evaluation", "finished"]
    assert [event["step"] for event in shown if event["event"] == "update"] == list(range(1, 41))
    assert sum(event["rows"] for event in shown if event["event"] == "update") == 2 * 2 * 300
    assert shown[-1]["metrics"] == made.metrics


def test_tensorboard_events(options, kit, tmp_path):
    made = train(options(epochs=1, log_dir=str(tmp_path / "board")))
    (file,) = (tmp_path / "board").glob("events.out.tfevents.*")
    data = file.read_bytes()
    found = {}
    while data:  # length, its checksum, event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        data = data[16 + size :]
    losses = [event["loss"] for event in kit.events(made.out / "log.jsonl")]
    assert [step for step, _ in found["train/loss"]] == list(range(1, 11))
    np.testing.assert_allclose([loss for _, loss in found["train/loss"]], losses, rtol=1e-6)
    assert found["evaluation/accuracy"] == [(10, pytest.approx(made.metrics["accuracy"]))]
    assert {"train/lr", "train/grad_norm"} < set(found)


def test_tensorboard_names_its_extra(options, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=r"--log-dir needs tensorboardX: pip install \"textsmooth\[tensorboard\]\""):
        train(options(log_dir=str(tmp_path / "board")))
    assert not list(tmp_path.iterdir())


def _losses(kit, made):
    return [event["loss"] for event in kit.events(made.out / "log.jsonl")]


@pytest.mark.slow
def test_parts_and_loader_workers_change_nothing(kit, options, tmp_path):
    whole = train(options(out=str(tmp_path / "whole"), dropout=0.0, batch_tokens=250))
    parts = train(options(out=str(tmp_path / "parts"), dropout=0.0, batch_tokens=250, accumulate=3, loader_workers=2))
    np.testing.assert_allclose(_losses(kit, parts), _losses(kit, whole), atol=1e-5)
    assert (parts.steps, parts.tokens) == (whole.steps, whole.tokens)


def test_evaluations_come_as_often_as_asked(kit, options):
    made = train(options(epochs=2, eval_every=8))
    assert [event["step"] for event in kit.events(made.out / "log.jsonl", "evaluation")] == [8, 16, 20]
    assert made.saved_step == made.steps == 20


def test_rows_per_class(kit, options, smoothed):
    labels = SmoothedDataset(smoothed, "train").labels
    assert train(options(rows_per_class=20, max_steps=2)).rows == 40
    few = train(options(rows_per_class=20, max_rows=10, max_steps=2, overwrite=True))
    assert few.rows == 10 and min(np.bincount(labels[:10])) < 20
    with pytest.raises(UsageError, match="--rows-per-class needs labels that are classes"):
        folder = kit.small_dataset(few.out.parent / "values", label_kind="value", label_names=None)
        train(options(dataset=str(folder), rows_per_class=5, overwrite=True))


def test_patience_needs_something_to_evaluate_on(kit, options, tmp_path):
    folder = kit.write_dataset(tmp_path / "d", {"train": [kit.random_rows(1, 9).block]})
    with pytest.raises(UsageError, match="--patience needs a split to evaluate on"):
        train(options(dataset=str(folder), patience=1))


def test_no_lengths_or_labels_are_read_where_the_manifest_says_enough(kit, options, tmp_path, monkeypatch):
    folder = kit.small_dataset(tmp_path / "d", statistics={"unlabelled_rows": 0})
    read = []
    for name in ("labels", "lengths"):
        found = getattr(SmoothedDataset, name)
        real = found.fget if isinstance(found, property) else found.func
        monkeypatch.setattr(
            SmoothedDataset, name, property(lambda self, real=real, name=name: read.append((name, self.name)) or real(self))
        )
    train(options(dataset=str(folder), max_steps=3))
    assert not [name for name, split in read if split == "train"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"objective": "kd"},
            UsageError,
            "has no teacher_logits for --objective kd; generate it with --task-teacher",
        ),
        (
            {"objective": "mlm"},
            UsageError,
            "has soft ids of unmasked text, --objective mlm needs masked; generate it with --context masked",
        ),
        ({"rows_per_class": 5, "eval_split": "test"}, UsageError, "no split 'test' in this dataset"),
        ({"topk": 9}, UsageError, "topk 9: the dataset stores 8"),
        ({"mass": 0.99}, UsageError, r"mass 0\.99: the dataset stores entries up to a mass of 0\.98"),
        ({"eval_split": "dev"}, UsageError, "no split 'dev' in this dataset; it has train, validation"),
        ({"student": "nowhere"}, UsageError, "no student at nowhere"),
        ({"dataset": "nowhere"}, UsageError, "no smoothed dataset at nowhere"),
        ({"device": "abacus"}, UsageError, "device 'abacus' is not usable"),
    ],
)
def test_wrong_input_is_told_in_one_line(options, tmp_path, changes, error, said):
    with pytest.raises(error, match=said) as caught:
        train(options(**changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_student_with_another_token_map_is_refused(kit, options, tmp_path):
    other = kit.save_masked_lm(tmp_path / "other", words=kit.VOCAB - 1)
    with pytest.raises(TeacherError, match="another token -> id map"):
        train(options(student=str(other)))


def test_a_student_with_too_few_positions_is_refused(kit, options, tmp_path):
    short = kit.save_masked_lm(tmp_path / "short", max_position_embeddings=6)
    with pytest.raises(UsageError, match=r"the longest row of train has \d+ tokens, the student has 6 positions; .*--max-length 6"):
        train(options(student=str(short)))


def test_a_dataset_without_labels_is_refused(kit, options, tmp_path):
    folder = kit.write_dataset(tmp_path / "d", {"train": [kit.random_rows(1, 9, label_kind=None).block]}, label_kind=None)
    with pytest.raises(DatasetError, match="has no labels"):
        train(options(dataset=str(folder)))


def test_a_label_that_is_no_class_is_refused(kit, options, tmp_path):
    folder = kit.write_dataset(tmp_path / "d", {"train": [_relabel(kit.random_rows(1, 3).block, [0, 1, 5])]})
    with pytest.raises(DatasetError, match="row 2: has label 5, -1 to 1 is promised"):
        train(options(dataset=str(folder)))


def test_a_lost_tokenizer_is_noticed_before_training(options, smoothed, tmp_path):
    folder = shutil.copytree(smoothed, tmp_path / "d")
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"tokenizer/tokenizer\.json in .* is missing or was altered"):
        train(options(dataset=str(folder)))


def test_what_a_loader_worker_says_is_one_line(kit, options, tmp_path):
    folder = kit.small_dataset(tmp_path / "d", statistics={"unlabelled_rows": 0})
    shard = sorted((folder / "train").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=r"^shard train/00000\.arrow in .* was altered") as caught:
        train(options(dataset=str(folder), loader_workers=1))
    assert "\n" not in str(caught.value)


def test_a_loader_worker_that_dies_is_told(options, monkeypatch):
    monkeypatch.setattr(SmoothedDataset, "batch", lambda self, indices: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(MachineError, match=r"a loader worker died \(DataLoader worker .* the same command goes on"):
        train(options(loader_workers=1))


def test_output_folders_are_safe(options, smoothed, student, tmp_path):
    train(options(max_steps=1))
    assert train(options(max_steps=1)).before
    with pytest.raises(ConflictError, match="--overwrite"):
        train(options(max_steps=2))
    for place in (student, student.parent, smoothed, smoothed / "train"):
        with pytest.raises(UsageError, match="would touch the"):
            train(options(out=str(place), overwrite=True))
    train(options(max_steps=1, overwrite=True))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_run_that_diverges_saves_nothing(kit, options, tmp_path):
    with pytest.raises(TextsmoothError, match="nothing was saved"):
        train(options(lr=1e30, warmup=0.0))
    assert not list(tmp_path.iterdir())


def _invoke(command, *args):
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False, catch_exceptions=False)


def test_the_commands(kit, smoothed, tmp_path):
    teacher = kit.save_masked_lm(tmp_path / "teacher")
    made = _invoke(student_command, "--from", teacher, "--layers", "0,2", "--out", tmp_path / "student")
    assert f"textsmooth train DATASET --student {tmp_path / 'student'}" in made.output
    shutil.rmtree(teacher)
    args = (smoothed, "--student", tmp_path / "student", "--out", tmp_path / "out", "--max-steps", 5, "--threads", 1)
    done = _invoke(train_command, *args, "--inputs", "both", "--lam", 0.3, "--topk", 4, "--tail", "original")
    assert "5 updates, both input, from 300 rows" in done.output and "accuracy" in done.output
    with pytest.raises(UsageError, match="layers '0;2' is not a list"):
        _invoke(student_command, "--from", teacher, "--layers", "0;2", "--out", tmp_path / "x")


def test_every_option_has_help_and_a_field():
    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    assert {parameter.name for parameter in train_command.params} == {*fields, "debug", "version"}
    for command in (train_command, student_command):
        assert all(parameter.help for parameter in command.params if parameter.param_type_name == "option")


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, textsmooth.pipeline.cli.train; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_files_that_are_no_tokenizer_are_not_copied_over_the_student(smoothed, student, tmp_path):
    """A dataset may come from a stranger, digests and all."""
    folder = shutil.copytree(smoothed, tmp_path / "dataset")
    manifest = read_manifest(folder)
    evil = []
    for name in ("model.safetensors", "config.json", "code.py"):
        path = folder / "tokenizer" / name
        path.write_bytes(b"evil")
        evil.append(FileEntry(path=f"tokenizer/{name}", bytes=4, sha256=file_sha256(path)))
    forged = dataclasses.replace(manifest, files=(*manifest.files, *evil))
    (folder / "manifest.json").write_bytes(pretty_json(forged.to_json()))
    out = train(TrainOptions(dataset=str(folder), student=str(student), out=str(tmp_path / "out"), max_steps=1)).out
    assert not (out / "code.py").exists()
    assert load_file(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["model_type"]
