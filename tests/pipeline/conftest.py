"""Fixtures of whole runs."""

import shutil
from pathlib import Path

import pytest
from helpers_gen import rows, write_jsonl

from textsmooth.stages.student import make_student


@pytest.fixture(scope="session")
def student(kit, tmp_path_factory) -> Path:
    """A tiny student, not to be changed; the teacher it was made from is gone."""
    folder = tmp_path_factory.mktemp("student")
    make_student(kit.save_masked_lm(folder / "teacher"), (0, 2), folder / "student")
    shutil.rmtree(folder / "teacher")
    return folder / "student"


@pytest.fixture
def desk(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a corpus and a teacher of its own."""
    folder = tmp_path / "desk"
    folder.mkdir()
    write_jsonl(folder / "good.jsonl", rows(6))
    shutil.copytree(teacher, folder / "teacher")
    monkeypatch.chdir(folder)
    return folder
