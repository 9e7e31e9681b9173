"""Datasets that released versions wrote: every later version reads the same numbers, verifies them and trains on them."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_gen import make_model

from textsmooth.pipeline import convert, train, verify
from textsmooth.stages import SmoothedDataset

GOLDEN = Path(__file__).parents[1] / "golden"
DATASETS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
COLUMNS = ("row", "window", "label", "example_id", "offsets", "context", "context_start", "answers", "start_positions", "end_positions")
# sha256 of what is read: texts, labels, input ids, soft ids
CONTENT = {
    "compact-0.1.0": "43843deaf26c21ece3584798dd24d98f489c3f72231bf9f45409e7c3dffbf918",
    "plain-0.1.0": "9c3d32bbc33216cac2b60799f29154c07998f4916bec0821cbfa2aa8e490fec9",
    "span-0.1.0": "ae24669ed3d0da4472b24a1f48b8f94f3496e6fe8ed08558cb723aee464fc603",
}


def content(folder: Path) -> str:
    sha256 = hashlib.sha256()
    for split in ("train", "validation"):
        if not (folder / split).is_dir():
            continue
        rows = SmoothedDataset(folder, split)
        block = rows.batch(np.arange(len(rows)))
        for batch in rows.record_batches():
            sha256.update(repr([batch.column(name).to_pylist() for name in batch.schema.names if name in COLUMNS]).encode())
        for array in (block.input_ids, block.row_offsets, *vars(block.soft).values()):
            sha256.update(f"{array.dtype.kind}{array.shape}".encode() + np.ascontiguousarray(array, np.float64).tobytes())
    return sha256.hexdigest()


@pytest.mark.parametrize("name", DATASETS)
def test_the_numbers_are_those_that_were_written(name: str) -> None:
    assert content(GOLDEN / name) == CONTENT[name]
    found = verify(GOLDEN / name)
    assert found.ok, found.summary()


def test_plain_and_compact_hold_the_same_numbers(tmp_path: Path) -> None:
    convert(GOLDEN / "compact-0.1.0", tmp_path / "plain", codec="plain")
    convert(tmp_path / "plain", tmp_path / "compact", codec="compact")
    assert content(tmp_path / "plain") == content(tmp_path / "compact") == CONTENT["compact-0.1.0"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_student_learns_from_them(name: str, tmp_path: Path) -> None:
    student: Any = tmp_path / "student"
    make_model(num_hidden_layers=1).save_pretrained(student)
    shutil.copytree(GOLDEN / name / "tokenizer", student, dirs_exist_ok=True)
    made = train(
        dataset=str(GOLDEN / name), student=str(student), out=str(tmp_path / "out"), max_steps=2, threads=1, device="cpu", progress="none"
    )
    assert made.steps == 2 and (tmp_path / "out/model.safetensors").is_file()
