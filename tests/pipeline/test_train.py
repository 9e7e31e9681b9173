"""Training runs from a dataset and a student to a saved model; the teacher is gone all along."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from textsmooth.pipeline import train as run_module
from textsmooth.pipeline.cli_train import student as student_command
from textsmooth.pipeline.cli_train import train as train_command
from textsmooth.pipeline.train import train
from textsmooth.pipeline.train_progress import TrainProgress
from textsmooth.schemas.canonical import file_sha256
from textsmooth.schemas.errors import ConflictError, DatasetError, TeacherError, TextsmoothError, UsageError
from textsmooth.schemas.manifest import FileEntry
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.evaluate import metrics, predict
from textsmooth.stages.folder import read_manifest
from textsmooth.stages.storage import pretty_json
from textsmooth.stages.stream import SmoothedDataset


@pytest.fixture
def options(smoothed, student, tmp_path):
    def make(**changes):
        given = {"dataset": str(smoothed), "student": str(student), "out": str(tmp_path / "out"), "threads": 1, "lr": 5e-3, **changes}
        return TrainOptions(**given)

    return make


@pytest.mark.parametrize("inputs", ["plain", "smoothed", "both"])
def test_a_student_learns_and_is_saved_whole(kit, options, smoothed, tmp_path, monkeypatch, inputs):
    students = []
    load = run_module.load_student
    monkeypatch.setattr(run_module, "load_student", lambda *a, **k: students.append(load(*a, **k)) or students[-1])
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
    assert metrics(logits, validation.labels, "class") == result.metrics
    assert AutoTokenizer.from_pretrained(out)("w5 w6")["input_ids"] == [kit.CLS, 5, 6, kit.SEP]

    record = json.loads((out / "train.json").read_text())
    assert record["metrics"] == result.metrics and record["options"]["inputs"] == inputs
    assert record["dataset"]["digest"] == validation.manifest.dataset
    assert [entry["epoch"] for entry in record["history"]] == list(range(1, len(record["history"]) + 1))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


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


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"temperature": 3.0}, UsageError, r"temperature 3 is not stored in this dataset, it has 0\.5, 1, 2"),
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": "mixed"}, "inputs 'mixed' is not one of plain, smoothed, both"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"lr": float("nan")}, "lr must be a finite number above 0"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"weight_decay": -1.0}, "weight-decay must be"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32, bfloat16"),
        ({"lam": -0.1}, "lam must be between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(options, changes, said):
    with pytest.raises(UsageError, match=said):
        options(**changes)


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
    with pytest.raises(DatasetError, match="label 5 is none of the 2 classes even, odd"):
        train(options(dataset=str(folder)))


def test_a_lost_tokenizer_is_noticed_before_training(options, smoothed, tmp_path):
    folder = shutil.copytree(smoothed, tmp_path / "d")
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"tokenizer/tokenizer\.json in .* is missing or was altered"):
        train(options(dataset=str(folder)))


def test_output_folders_are_safe(options, smoothed, student, tmp_path):
    train(options(max_steps=1))
    with pytest.raises(ConflictError, match="--overwrite"):
        train(options(max_steps=1))
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
    assert "5 updates on 300 rows, both input" in done.output and "accuracy" in done.output
    with pytest.raises(UsageError, match="layers '0;2' is no list"):
        _invoke(student_command, "--from", teacher, "--layers", "0;2", "--out", tmp_path / "x")


def test_every_option_has_help_and_a_field():
    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    assert {parameter.name for parameter in train_command.params} == {*fields, "debug"}
    for command in (train_command, student_command):
        assert all(parameter.help for parameter in command.params if parameter.param_type_name == "option")


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, textsmooth.pipeline.cli_train; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
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
