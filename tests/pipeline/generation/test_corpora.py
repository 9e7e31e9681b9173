"""Corpora of every shape through the command: formats agree, cells get their types, labels are those of the task, answers are checked."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_gen import Ran, rows, write_jsonl, wrong

from textsmooth.stages.dataset.open import read_manifest

CSV_ROWS = [
    {"text": "the cat sat", "label": "1", "stars": "4", "score": "0.5", "zip": "007", "note": ""},
    {"text": "", "label": "", "stars": "", "score": "", "zip": "12", "note": "good, very"},
    {"text": "a dog\nran", "label": "0", "stars": "-1", "score": "2", "zip": "", "note": 'a "film"'},
]


def table(folder: Path, split: str = "train") -> pa.Table:
    shards = [pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in sorted((folder / split).glob("*.arrow"))]
    return pa.concat_tables([t.replace_schema_metadata() for t in shards])


def write_csv(path: Path, lines: list[dict[str, str]]) -> Path:
    def cell(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if set(value) & set('",\n') else value

    records = [",".join(lines[0])] + [",".join(map(cell, line.values())) for line in lines]
    path.write_text("\n".join(records) + "\n", encoding="utf-8")
    return path


def test_cells_of_csv_become_labels_and_columns_of_one_type(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_csv(tmp_path / "c.csv", CSV_ROWS)
    keep = ("--keep-columns", "stars,score,zip,note,text", "--rows-per-shard", 1)
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--text-column", "text", *keep)
    assert ran.code == 0, ran.err
    found = table(tmp_path / "out")
    assert found["label"].to_pylist() == [1, -1, 0]
    assert found["stars"].to_pylist() == [4, None, -1] and found.schema.field("stars").type == pa.int64()
    assert found["score"].to_pylist() == [0.5, None, 2.0]
    assert found["zip"].to_pylist() == ["007", "12", None]
    assert found["note"].to_pylist() == [None, "good, very", 'a "film"']
    assert found["text"].to_pylist() == ["the cat sat", "", "a dog\nran"]
    dry = gen("--corpus", corpus, "--out", tmp_path / "dry", "--topk", 2, "--text-column", "text", *keep, "--dry-run")
    assert dry.code == 0, dry.err


@pytest.mark.parametrize(
    ("cells", "stored", "names"),
    [
        (["1", "", "0"], [1, -1, 0], None),
        (["0.5", "", "3"], [0.5, np.nan, 3.0], None),
        (["pos", "", "neg"], [1, -1, 0], ["neg", "pos"]),
        (["true", "false", ""], [1, 0, -1], ["false", "true"]),
        (["1", "x", "0"], [1, 2, 0], ["0", "1", "x"]),
        (["", "", ""], [-1, -1, -1], None),
    ],
)
def test_labels_of_csv(cells: list[str], stored: list[Any], names: list[str] | None, gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_csv(tmp_path / "c.csv", [{"text": "the cat", "label": cell} for cell in cells])
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--text-column", "text", "--rows-per-shard", 1)
    assert ran.code == 0, ran.err
    np.testing.assert_equal(table(tmp_path / "out")["label"].to_pylist(), stored)
    assert read_manifest(tmp_path / "out").corpus["label_names"] == names


def test_the_same_rows_of_different_formats_are_the_same_shards(gen: Callable[..., Ran], tmp_path: Path) -> None:
    lines = [{"text": row["text"], "label": row["label"]} for row in rows(12)]
    folder = tmp_path / "mixed"
    folder.mkdir()
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(data))
    (folder / "b.jsonl.zst").write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    pq.write_table(pa.Table.from_pylist(lines), folder / "c.parquet")
    write_csv(folder / "d.csv", [{k: "" if v is None else str(v) for k, v in line.items()} for line in lines])
    ran = gen("--corpus", folder / "*.*", "--out", tmp_path / "out", "--topk", 2, "--text-column", "text")
    assert ran.code == 0, ran.err
    assert read_manifest(tmp_path / "out").corpus["files"] == {"train": ["a.jsonl.gz", "b.jsonl.zst", "c.parquet", "d.csv"]}
    found = table(tmp_path / "out").drop_columns(["row"])
    assert found.num_rows == 48
    for start in (12, 24, 36):
        assert found.slice(start, 12).equals(found.slice(0, 12))


def test_lists_and_structs_are_kept(gen: Callable[..., Ran], tmp_path: Path) -> None:
    lines = [
        {"text": "the cat", "tags": ["a", "b"], "meta": {"by": "x", "at": [1, 2]}},
        {"text": "a dog", "tags": [], "meta": None},
        {"text": "a bird", "tags": None, "meta": {"at": [0.5]}},
    ]
    corpus = write_jsonl(tmp_path / "c.jsonl", lines)
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--keep-columns", "tags,meta", "--rows-per-shard", 1)
    assert ran.code == 0, ran.err
    found = table(tmp_path / "out")
    assert found["tags"].to_pylist() == [["a", "b"], [], None]
    assert found["meta"].to_pylist() == [{"at": [1.0, 2.0], "by": "x"}, None, {"at": [0.5], "by": None}]
    again = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--keep-columns", "tags,meta", "--rows-per-shard", 1)
    assert again.code == 0 and "Nothing to do" in again.out


def test_columns_that_cannot_be_kept(gen: Callable[..., Ran], desk: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "when": pa.array([0], pa.timestamp("us"))}), desk / "c.parquet")
    nested = {
        "times": pa.array([None, [0]], pa.list_(pa.timestamp("us"))),
        "day": pa.array([None, {"at": 0}], pa.struct([("at", pa.date32())])),
        "pairs": pa.array([None, [("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "far": pa.array([None, 400_000_000_000], pa.timestamp("s")),
        "twice": pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"]),
        "raw": [b"x", b"\xff"],
    }
    write_arrow(desk / "d.arrow", pa.table({"text": ["a", "b"], **nested}))
    for file, column, words in (
        ("c.parquet", "when", "row 0 of c.parquet: column 'when' holds a datetime: "),
        ("d.arrow", "times", "row 1 of d.arrow: column 'times' holds a datetime: "),
        ("d.arrow", "day", "row 1 of d.arrow: column 'day' holds a date: "),
        ("d.arrow", "pairs", "row 1 of d.arrow: column 'pairs' holds a map: "),
        ("d.arrow", "far", "row 1 of d.arrow: column 'far' holds a timestamp[s] that cannot be read ("),
        ("d.arrow", "twice", "row 0 of d.arrow: column 'twice' holds a struct<a: int64, a: int64> that cannot be read ("),
        ("d.arrow", "raw", "row 1 of d.arrow: column 'raw' is not UTF-8 ("),
    ):
        assert words in wrong(gen, desk, 1, "--corpus", file, "--keep-columns", column, "--out", "out", "--topk", 2)


def write_arrow(path: Path, data: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
        writer.write_table(data)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_that_are_utf_8_are_strings(kind: pa.DataType, gen: Callable[..., Ran], tmp_path: Path) -> None:
    columns = {"text": ["the cät", None], "label": ["wet", "dry"], "place": ["north", None]}
    data = pa.table({name: pa.array([v and v.encode() for v in values], kind) for name, values in columns.items()})
    pq.write_table(data.slice(0, 1), tmp_path / "c.parquet")
    ran = gen("--corpus", tmp_path / "c.parquet", "--out", tmp_path / "out", "--topk", 2, "--keep-columns", "place")
    assert ran.code == 0, ran.err
    assert (table(tmp_path / "out")["place"].to_pylist(), read_manifest(tmp_path / "out").corpus["label_names"]) == (["north"], ["wet"])


def test_names_and_metadata_of_columns_that_are_damaged(gen: Callable[..., Ran], desk: Path) -> None:
    data = pa.table({"text": ["a"], "xcolumn": ["b"], "label": [0]})
    write_arrow(desk / "name.arrow", data)
    bytes_of = (desk / "name.arrow").read_bytes()
    (desk / "name.arrow").write_bytes(bytes_of.replace(b"xcolumn", b"\xffcolumn"))
    line = wrong(gen, desk, 1, "--corpus", "name.arrow", "--out", "out", "--topk", 2)
    assert "name.arrow has a column whose name is not UTF-8" in line
    for names in ('["\\ud800", "b"]', '["b", "b"]', "[" * 100_000):
        info = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ' + names + "}}}}"
        write_arrow(desk / "c.arrow", data.replace_schema_metadata({"huggingface": info}))
        line = wrong(gen, desk, 1, "--corpus", "c.arrow", "--out", "out", "--topk", 2)
        assert "the metadata `huggingface` of c.arrow is damaged" in line


def glue(folder: Path, task: str, splits: dict[str, list[dict[str, Any]]]) -> str:
    """A folder laid out as GLUE is, with one config."""
    (folder / "glue").mkdir()
    entries = "".join(f"\n  - {{split: {split}, path: {split}.jsonl}}" for split in splits)
    (folder / "glue/README.md").write_text(f"---\nconfigs:\n- config_name: {task}\n  data_files:{entries}\n---\n")
    for split, lines in splits.items():
        write_jsonl(folder / "glue" / f"{split}.jsonl", lines)
    return f"{folder / 'glue'}:{task}"


def pair(label: Any) -> dict[str, Any]:
    return {"sentence1": "the cat", "sentence2": "a dog", "label": label}


def test_scores_stay_scores_where_all_are_whole_numbers(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = glue(tmp_path, "stsb", {"train": [pair(4), pair(0), pair(None)], "test": [pair(-1) | {"sentence2": "the dog"}] * 2})
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2)
    assert ran.code == 0, ran.err
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.corpus["label_kind"], manifest.corpus["label_names"], manifest.corpus["task"]) == ("value", None, "glue/stsb")
    np.testing.assert_equal(table(tmp_path / "out")["label"].to_pylist(), [4.0, 0.0, np.nan])
    np.testing.assert_equal(table(tmp_path / "out", "test")["label"].to_pylist(), [np.nan, np.nan])
    assert manifest.statistics["unlabelled_rows"] == 3


@pytest.mark.parametrize("labels", [[0, 1, -1], ["entailment", "not_entailment", None]])
def test_a_task_names_its_classes_in_its_order(labels: list[Any], gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = glue(tmp_path, "rte", {"train": [pair(label) for label in labels]})
    ran = gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2)
    assert ran.code == 0, ran.err
    assert read_manifest(tmp_path / "out").corpus["label_names"] == ["entailment", "not_entailment"]
    assert table(tmp_path / "out")["label"].to_pylist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        ("rte", [0, 2], "has 2: its 2 classes are 0..1 (entailment, not_entailment); see row 1 of"),
        ("rte", [0, -2], "has -2: classes count from 0, -1 stands for no label; see row 1 of"),
        ("rte", ["entailment", "contradiction"], "has 'contradiction', which is no class of glue/rte"),
        ("rte", [0, 0.5], "has 0.5 in row 1 of"),
        ("stsb", ["high", "low"], "holds str, glue/stsb has numbers"),
        ("stsb", [0.5, float("inf")], "is infinite in row 1 of"),
    ],
)
def test_labels_that_are_not_those_of_the_task(task: str, labels: list[Any], words: str, gen: Callable[..., Ran], desk: Path) -> None:
    corpus = glue(desk, task, {"train": [pair(labels[0])], "validation": [pair(labels[0]), pair(labels[1])]})
    line = wrong(gen, desk, 1, "--corpus", corpus, "--out", "out", "--topk", 2)
    assert words in line and ("row" not in words or "validation.jsonl" in line)


def test_class_names_that_are_numbers_and_numbers_that_are_classes(gen: Callable[..., Ran], desk: Path) -> None:
    names = "".join(f"\n          '{i}': '{i + 1}'" for i in range(5))
    features = f"\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:{names}"
    (desk / "stars").mkdir()
    (desk / "stars/README.md").write_text(f"---\ndataset_info:\n  features:{features}\n---\n")
    write_csv(desk / "stars/train.csv", [{"text": "good", "label": "4"}, {"text": "bad", "label": "1"}])
    line = wrong(gen, desk, 1, "--corpus", "stars", "--out", "out", "--topk", 2, "--text-column", "text")
    assert "the class of that name, or that number?" in line


def question(**changes: Any) -> dict[str, Any]:
    answers = {"text": ["cat"], "answer_start": [4]}
    return {"id": "1", "question": "who sat", "context": "the cat sat", "answers": answers, **changes}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (None, "is null"),
        ("cat", "is a str"),
        ({"text": ["cat"]}, "is {text}"),
        ({"text": ["cat"], "answer_start": []}, "has not one start for each text"),
        ({"text": "cat", "answer_start": 4}, "has not one start for each text"),
        ({"text": ["cat"], "answer_start": ["4"]}, "has the answer 'cat' at '4'"),
        ({"text": ["cat"], "answer_start": [5]}, "has the answer 'cat' at 5, where its context has 'at '"),
        ({"text": ["cat"], "answer_start": [-7]}, "has the answer 'cat' at -7"),
        ({"text": ["", ""], "answer_start": [11, 12]}, "has the answer '' at 12"),
    ],
)
def test_answers_are_checked_against_their_context(answers: Any, words: str, gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "squad.jsonl", [question(), question(answers=answers)])
    line = wrong(gen, desk, 1, "--corpus", "squad.jsonl", "--out", "out", "--topk", 2)
    assert "row 1 of squad.jsonl: column 'answers' " + words in line


def test_null_text_is_named_by_row_column_and_file(gen: Callable[..., Ran], desk: Path) -> None:
    write_jsonl(desk / "a1.jsonl", [{"text": "a"}])
    write_jsonl(desk / "a2.jsonl", [{"text": "a"}, {"text": None}])
    line = wrong(gen, desk, 1, "--corpus", "a*.jsonl", "--out", "out", "--topk", 2)
    assert "row 1 of a2.jsonl: column 'text' is null, not text" in line


def test_a_row_of_a_million_characters_is_cut_like_any_other(gen: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("the cat sat\n" + "the dog ran. " * 80_000 + "\n", encoding="utf-8")
    ran = gen("--corpus", tmp_path / "c.txt", "--out", tmp_path / "out", "--topk", 2)
    assert ran.code == 0, ran.err
    assert [len(ids) for ids in table(tmp_path / "out")["input_ids"].to_pylist()] == [5, 24]
    assert read_manifest(tmp_path / "out").statistics["truncated_rows"] == 1


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("hdr.csv", "text,label\n", 1, "corpus hdr.csv is empty: no rows in hdr.csv"),
        (
            "quoted.csv",
            '"text";"label"\n"a";1\n',
            1,
            "quoted.csv is read as one column, '\"text\";\"label\"': its delimiter seems to be ';'",
        ),
        (
            "repr.jsonl",
            "{'text': 'a'}\n",
            1,
            "one JSON object a line is needed, with strings and keys in double quotes, as json.dumps writes it",
        ),
        ("comma.jsonl", '{"text": "a",}\n', 1, "one JSON object a line is needed, as json.dumps writes it"),
        ("pretty.json", '{\n"text": "a"\n}\n', 1, "one JSON object a line is needed, convert it with jq -c . pretty.json"),
        ("frame.json", '{"text": {"0": "a"}, "label": {"0": 1}}\n', 1, "frame.json is a table by columns, as pandas.to_json() writes it"),
        ("long.jsonl", '{"text": "a", "label": ' + "7" * 5000 + "}\n", 1, f"row 0 of long.jsonl: column 'label' is {'7' * 20}…, more than"),
        ("semi.csv", "text;label\na;1\n", 1, "semi.csv is read as one column, 'text;label': its delimiter seems to be ';'"),
        ("minus.csv", "text,label\na b,pos\nc,-1\n", 1, "label column 'label' of minus.csv has '-1' beside words"),
        (
            "late.jsonl",
            '{"text": "a"}\n' * 1100 + '{"text": "b", "label": 1}\n',
            1,
            "row 1100 of late.jsonl has 'label', which the first 1,024 rows do not have: write it in every row, null for no label, or",
        ),
        (
            "texts.jsonl",
            '{"text": "a"}\n' * 1100 + '{"text": "b", "sentence": "c"}\n',
            1,
            "row 1100 of texts.jsonl has 'sentence', which the first 1,024 rows do not have: name the text with --text-column",
        ),
    ],
)
def test_what_would_be_lost_without_a_word_is_refused(
    name: str, content: str, code: int, words: str, gen: Callable[..., Ran], desk: Path
) -> None:
    (desk / name).write_text(content)
    assert words in wrong(gen, desk, code, "--corpus", name, "--out", "out", "--topk", 2)


def test_a_text_that_was_named_is_the_text_whatever_comes_late(gen: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n' * 1100 + '{"text": "b", "sentence": "c"}\n')
    ran = gen("--corpus", tmp_path / "c.jsonl", "--out", tmp_path / "out", "--topk", 2, "--text-column", "text")
    assert ran.code == 0, ran.err


def test_a_column_of_csv_that_is_called_text_is_the_text_also_where_all_cells_are_numbers(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_csv(tmp_path / "c.csv", [{"text": "12", "label": "1"}, {"text": "3.5", "label": "0"}])
    assert gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2).code == 0
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.corpus["text_columns"], manifest.corpus["label_column"]) == (["text"], "label")


def test_scores_of_csv_may_all_be_different(gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textsmooth.stages.corpus import column_types

    monkeypatch.setattr(column_types, "MOST_CLASSES", 3)
    corpus = write_csv(tmp_path / "c.csv", [{"text": "the cat", "label": f"0.{n}"} for n in range(1, 8)])
    assert gen("--corpus", corpus, "--out", tmp_path / "out", "--topk", 2, "--rows-per-shard", 2).code == 0
    np.testing.assert_equal(table(tmp_path / "out")["label"].to_pylist(), [n / 10 for n in range(1, 8)])
