"""The same rows in the training split and in another one."""

import json
from collections.abc import Callable
from pathlib import Path

from helpers_gen import Ran

from textsmooth.stages import SmoothedDataset


def corpus(folder: Path, **splits: list[str]) -> Path:
    folder.mkdir()
    for split, texts in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": text, "label": i % 2}) + "\n" for i, text in enumerate(texts)))
    return folder


def test_rows_of_train_that_are_in_another_split_are_counted(gen: Callable[..., Ran], teacher: Path, tmp_path: Path) -> None:
    place = corpus(
        tmp_path / "reviews",
        train=["the movie was good", "the food was bad", "the food was bad", ""],
        validation=["the food was bad", "the food was good", "", "the movie was good"],
        test=["the movie was bad", ""],
    )
    line = "2 of 3 rows of validation (66.7%) have the text of a row of train"
    assert line in " ".join(gen("--corpus", place, "--teacher", teacher, "--topk", 3, "--dry-run").out.split())
    ran = gen("--corpus", place, "--teacher", teacher, "--topk", 3, "--out", tmp_path / "out")
    assert ran.code == 0 and line in " ".join(ran.out.split()) and "rows of test" not in ran.out, ran.err
    assert len(SmoothedDataset(tmp_path / "out", "validation")) == 4
    again = gen("--corpus", place, "--teacher", teacher, "--topk", 3, "--out", tmp_path / "out")
    assert line in " ".join(again.out.split())  # the corpus was not read again


def test_a_split_whose_rows_are_all_in_train_is_refused(gen: Callable[..., Ran], teacher: Path, tmp_path: Path) -> None:
    place = corpus(tmp_path / "reviews", train=["the movie was good", "the food was bad"], validation=["the food was bad"])
    ran = gen("--corpus", place, "--teacher", teacher, "--topk", 3, "--out", tmp_path / "out")
    assert (
        ran.code == 2
        and "every row of validation is in train too: students would be scored on what they have learned; give other" in ran.err
    )
    assert not (tmp_path / "out").exists()
    assert gen("--corpus", place, "--teacher", teacher, "--topk", 3, "--split", "validation", "--out", tmp_path / "out").code == 0


def test_a_pair_of_texts_is_compared_as_a_pair(gen: Callable[..., Ran], teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, pairs in {"train": [("good", "bad"), ("bad", "")], "validation": [("bad", "good"), ("", "bad"), ("good", "bad")]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in pairs))
    columns = ("--text-column", "a", "--text-column", "b")
    ran = gen("--corpus", folder, *columns, "--teacher", teacher, "--topk", 3, "--out", tmp_path / "out")
    assert "1 of 3 rows of validation (33.3%) have the text of a row of train" in " ".join(ran.out.split()), ran.err
