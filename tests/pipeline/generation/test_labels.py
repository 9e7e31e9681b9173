"""Labels by meaning: classes by name across files, numbers in every spelling, and the choice of columns."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_gen import Ran, write_jsonl, wrong

from textsmooth.stages.dataset.open import read_manifest

WEATHER = (["sun", "rain"], [0, 1]), (["rain", "fog", "sun"], [2, 0])  # the same meaning in both, but numbered differently


def weather(names: list[str], labels: list[Any], kind: pa.DataType | None = None) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": ["a big house", "the small river"], "label": labels}, features=features)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def stored(out: Path) -> tuple[list[int], list[str] | None]:
    """The labels of a dataset, in the order of its splits, and the names of its classes."""
    manifest = read_manifest(out)
    labels = [
        v for shard in manifest.shards for v in pa.ipc.open_file(pa.memory_map(str(out / shard.path))).read_all()["label"].to_pylist()
    ]
    return labels, manifest.corpus["label_names"]


@pytest.mark.parametrize("kind", ["glob", "folder", "saved", "arrow"])
def test_classes_are_matched_by_name_across_files_and_splits(kind: str, gen: Callable[..., Ran], desk: Path) -> None:
    one, two = (weather(*part) for part in WEATHER)
    two = two.map(lambda row: {"text": f"{row['text']} again"})
    (desk / "d").mkdir()
    if kind == "saved":
        datasets.DatasetDict({"train": one, "test": two}).save_to_disk(desk / "d")
    elif kind == "arrow":
        for name, part in (("0", one), ("1", two)):
            with pa.OSFile(str(desk / f"d/{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, part.data.table.schema) as writer:
                writer.write_table(part.data.table)
    else:
        one.to_parquet(desk / "d/train.parquet")
        two.to_parquet(desk / "d/validation.parquet")
    corpus = {"glob": "d/*.parquet", "arrow": "d/*.arrow"}.get(kind, "d")
    ran = gen("--corpus", corpus, "--topk", 2, "--out", "out")
    assert ran.code == 0, ran.err
    assert stored(desk / "out") == ([0, 1, 0, 1], ["sun", "rain", "fog"])
    assert "classes of label are matched by name: the dataset has the order sun, rain, fog; " in ran.out
    assert "the order rain, fog, sun\n" in ran.out
    assert gen("--corpus", corpus, "--topk", 2, "--out", "out").out.startswith("Nothing to do")


def test_a_number_outside_the_classes_of_a_file_is_refused_by_row(gen: Callable[..., Ran], desk: Path) -> None:
    table = weather(*WEATHER[0]).data.table
    wide = table.set_column(1, table.schema.field(1), pa.array([1, 2]))
    pq.write_table(wide, desk / "a.parquet")
    line = wrong(gen, desk, 1, "--corpus", "a.parquet", "--topk", 2, "--out", "out")
    assert "has 2: its 2 classes are 0..1 (sun, rain); see row 1 of a.parquet" in line
    weather(*WEATHER[1]).to_parquet(desk / "0.parquet")  # first: a.parquet is renumbered, and 2 would be a class of the other
    line = wrong(gen, desk, 1, "--corpus", "*.parquet", "--topk", 2, "--out", "out")
    assert "row 1 of a.parquet: column 'label' is 2, its 2 classes are 0..1" in line


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([1.0, float("nan"), 0.0], [1, -1, 0]),
        (["1", None, "0"], [1, -1, 0]),
        (["rain", None, 0], [1, -1, 0]),
        ([True, -1, False], [1, -1, 0]),
    ],
)
def test_numbers_of_named_classes_in_every_spelling(labels: list[Any], found: list[int], gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "d").mkdir()
    names = "".join(f"\n          '{i}': {name}" for i, name in enumerate(WEATHER[0][0]))
    features = f"\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:{names}"
    (desk / "d/README.md").write_text(f"---\ndataset_info:\n  features:{features}\n---\n")
    rows = [{"text": "the cat", "label": label} for label in labels]
    write_jsonl(desk / "d/train.jsonl", rows)
    ran = gen("--corpus", "d", "--topk", 2, "--out", "json")
    assert ran.code == 0, ran.err
    assert stored(desk / "json") == (found, WEATHER[0][0])
    (desk / "d/train.jsonl").unlink()
    if True not in labels[:1]:  # of CSV a string
        write_csv(desk / "d/train.csv", [{**row, "label": row["label"] if row["label"] == row["label"] else None} for row in rows])
        assert gen("--corpus", "d", "--topk", 2, "--out", "csv").code == 0
        assert stored(desk / "csv") == (found, WEATHER[0][0])
        (desk / "d/train.csv").unlink()
    write_jsonl(desk / "d/train.jsonl", [{"text": "a", "label": "rain"}, {"text": "b", "label": "hail"}])
    line = wrong(gen, desk, 1, "--corpus", "d", "--topk", 2, "--out", "out")
    assert "has 'hail', which is no class of d, in row 1 of" in line and "its 2 classes are 0..1 (sun, rain)" in line


def test_floats_that_are_whole_are_values_and_pointed_out(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "c.jsonl", [{"text": "the cat", "label": label} for label in (1.0, None, 0.0)])
    for more in (["--dry-run"], [], []):  # and of the finished dataset
        ran = gen("--corpus", "c.jsonl", "--topk", 2, "--out", "out", *more)
        assert ran.code == 0, ran.err
        assert "labels are taken for numbers, and all are whole, from 0.0 to 1.0: write integers if they are classes" in ran.out
    write_jsonl(desk / "c.jsonl", [{"text": "the cat", "label": label} for label in (1.0, None, 0.5)])
    assert "all are whole" not in gen("--corpus", "c.jsonl", "--topk", 2, "--out", "out2").out


def test_labels_of_several_kinds_are_named_with_their_files(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "a.jsonl", [{"text": "x", "label": None}, {"text": "y", "label": 3}])
    write_csv(desk / "b.csv", [{"text": "z", "label": "warm"}])
    line = wrong(gen, desk, 1, "--corpus", "[ab].*", "--topk", 2, "--out", "out")
    assert "holds int and str: numbers or strings are needed, of one kind; int in row 1 of a.jsonl, str in row 0 of b.csv" in line


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_the_only_column_of_strings_is_not_taken_for_the_text(suffix: str, gen: Callable[..., Ran], desk: Path) -> None:
    rows = [{"doc_id": "x7", "score": 1}, {"doc_id": "x8", "score": 2}]
    write_csv(desk / "c.csv", rows)
    write_jsonl(desk / "c.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), desk / "c.parquet")
    line = wrong(gen, desk, 2, "--corpus", f"c.{suffix}", "--topk", 2, "--out", "out")
    assert "doc_id" in line and "--text-column" in line
    ran = gen("--corpus", f"c.{suffix}", "--topk", 2, "--out", "out", "--text-column", "doc_id")
    assert ran.code == 0 and "text from doc_id, no label\n" in ran.out


@pytest.mark.parametrize("column", ["Label ", "labels", "LABEL", "sentiment", "is_spam"])
def test_columns_that_look_like_labels_are_pointed_out(column: str, gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "c.jsonl", [{"text": "the cat", column: 1, "length": 7}])
    shown = repr(column) if " " in column else column
    note = f"no label; columns that look like labels: {shown}; name one with --label-column\n"
    assert note in gen("--corpus", "c.jsonl", "--topk", 2, "--out", "out").out
    assert note in gen("--corpus", "c.jsonl", "--topk", 2, "--out", "out", "--dry-run").out
    ran = gen("--corpus", "c.jsonl", "--topk", 2, "--out", "named", "--label-column", column)
    assert ran.code == 0 and "look like" not in ran.out


def test_a_file_whose_name_is_not_utf_8_is_refused(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "c\udcff.jsonl", [{"text": "the cat"}])
    assert "c<0xFF>.jsonl: its name is not UTF-8, rename it" in wrong(gen, desk, 2, "--corpus", "c*.jsonl", "--topk", 2, "--out", "out")


def test_a_column_that_is_named_almost_right_is_suggested(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "c.jsonl", [{"text": "the cat", "Label ": 1}])
    line = wrong(gen, desk, 2, "--corpus", "c.jsonl", "--topk", 2, "--out", "out", "--label-column", "label")
    assert "c.jsonl has no column 'label'; it has text, 'Label '; is it 'Label '?" in line
