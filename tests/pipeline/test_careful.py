"""Nothing is lost or mistaken without a word: labels, blank text, files outside a folder, a teacher that changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_gen import Ran, make_model, wrong

from textsmooth.pipeline.generate import generate
from textsmooth.pipeline.plan import cut
from textsmooth.pipeline.request import draft
from textsmooth.pipeline.unit import UnitWorker
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import TeacherError
from textsmooth.stages.storage import read_manifest


def test_labels_are_not_lost_where_the_first_row_or_file_has_none(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "late.jsonl").write_text('{"text": "a"}\n{"text": "b", "label": 1}\n')
    assert "row 0 of late.jsonl has no column 'label'" in wrong(gen, desk, 1, "--corpus", "late.jsonl", "--teacher", "teacher")
    (desk / "parts").mkdir()
    (desk / "parts/test.jsonl").write_text('{"text": "a"}\n')
    (desk / "parts/train.jsonl").write_text('{"text": "b", "label": 1}\n')
    line = wrong(gen, desk, 2, "--corpus", "parts", "--teacher", "teacher")
    assert "test.jsonl has no column 'label'" in line and "--split" in line
    ran = gen("--corpus", "parts", "--teacher", "teacher", "--split", "train", "--topk", 3, "--out", "out")
    assert ran.code == 0 and "label" in read_manifest(desk / "out").corpus["label_column"]


def test_labels_below_minus_one_are_no_classes(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "signed.jsonl").write_text('{"text": "a", "label": -2}\n{"text": "b", "label": 1}\n')
    assert "has -2: classes count from 0, -1 stands for no label" in wrong(gen, desk, 1, "--corpus", "signed.jsonl", "--teacher", "teacher")
    (desk / "none.jsonl").write_text('{"text": "a", "label": -1}\n{"text": "b", "label": 1}\n')
    assert "without a label (null or -1): 1 row\n" in gen("--corpus", "none.jsonl", "--teacher", "teacher", "--topk", 3, "--out", "out").out


def test_a_corpus_folder_that_points_outside_itself_is_refused(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "sly").mkdir()
    (desk / "sly/README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: ../good.jsonl\n---\n")
    assert "outside the folder" in wrong(gen, desk, 2, "--corpus", "sly", "--teacher", "teacher")


def test_a_folder_with_configs_asks_for_one(gen: Callable[..., Ran], desk: Path, hub_folder: Path) -> None:
    line = wrong(gen, desk, 2, "--corpus", hub_folder, "--teacher", "teacher")
    assert "give one of" in line and f"--corpus {hub_folder}:" in line


def test_without_a_teacher_named_it_is_the_default_one(desk: Path) -> None:
    with pytest.raises(TeacherError, match="google-bert/bert-base-uncased is neither on this machine"):  # tests are offline
        generate(GenerateOptions(corpus=str(desk / "good.jsonl")))


def test_a_blank_corpus_says_that_nothing_was_smoothed(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "blank.txt").write_text("\n\n")
    ran = gen("--corpus", "blank.txt", "--teacher", "teacher", "--topk", 3, "--out", "out")
    assert ran.code == 0 and "no token was smoothed" in ran.out


def test_a_teacher_that_changed_after_planning_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan names a teacher by content; the worker loads that one or none."""
    options = GenerateOptions(corpus=str(desk / "good.jsonl"), teacher=str(desk / "teacher"), topk=3, out=str(desk / "out"))
    asked = draft(options)
    plan = cut(asked)
    make_model(initializer_range=0.3).save_pretrained(desk / "teacher")
    with pytest.raises(TeacherError, match="is not the planned one"):
        UnitWorker(plan, asked.sources, desk / "out")
