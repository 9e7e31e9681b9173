"""Planning and working read the same rows: whatever the format, the unit size, and how the file is laid out."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_gen import rows, write_jsonl, write_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textsmooth.schemas.errors import CorpusError, UsageError
from textsmooth.stages.corpus.column_types import choose_columns, late_columns
from textsmooth.stages.corpus.folder import folder_license
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.open import open_corpus
from textsmooth.stages.corpus.reader import SCAN_ROWS, read, rows_sha256, scan
from textsmooth.stages.corpus.source_file import SourceFile

TEXTS = [
    "plain",
    "",
    " spaces ",
    "tab\tinside",
    'quote " and \\',
    "ünïcödé 日本 🎉",
    "\u2028 line separator \x85 next line",
    "\ufeffmark",
    "a\rb",
]


def source(path: Path) -> SourceFile:
    return source_file(path.name, path=path)


def write(path: Path, texts: list[str]) -> SourceFile:
    """The texts as a file of the format that its name says."""
    lines = [{"text": text, "idx": i} for i, text in enumerate(texts)]
    match path.suffix:
        case ".jsonl":
            write_jsonl(path, lines)
        case ".txt":
            path.write_bytes("".join(text + "\n" for text in texts).encode())
        case ".parquet":
            write_parquet(path, lines, group=5)
    return source(path)


FORMATS = [".jsonl", ".txt", ".parquet"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 40, 1000])
@pytest.mark.parametrize("limit", [None, 1, 5, 23, 41])
def test_units_read_what_the_plan_read(suffix: str, size: int, limit: int | None, tmp_path: Path) -> None:
    texts = [TEXTS[i % len(TEXTS)] + str(i) for i in range(37)]
    file = write(tmp_path / f"c{suffix}", texts)
    parts = list(scan(file, ("text",), rows=size, limit=limit))
    wanted = texts[:limit]
    assert [text for part in parts for text in part.rows["text"]] == wanted
    assert [part.start for part in parts] == list(range(0, len(wanted), size))
    assert all(part.count == size for part in parts[:-1])
    for part in parts:
        again = read(file, ("text",), part.start, part.start + part.count, part.offset)
        assert again == part.rows
        assert rows_sha256(again) == rows_sha256(part.rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8), min_size=1, max_size=20),
    size=st.integers(1, 9),
    blanks=st.integers(0, 2),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_lines_of_any_text_and_end_agree(texts: list[str], size: int, blanks: int, end: str, last: bool, tmp_path: Path) -> None:
    for name in ("c.jsonl", "c.txt"):
        jsonl = name == "c.jsonl"
        lines = [json.dumps({"text": t}, ensure_ascii=len(t) % 2 == 0) if jsonl else t for t in texts]
        gap = end * (1 + (blanks if jsonl else 0))
        text = (end * blanks if jsonl else "") + gap.join(lines)
        wanted = texts
        if last or lines[-1] in ("", "\ufeff"):
            text += end
        if not jsonl and lines[0].startswith("\ufeff"):
            wanted = [texts[0][1:], *texts[1:]]  # a byte order mark at the start of a file is no text
        (tmp_path / name).write_bytes(text.encode())
        file = source(tmp_path / name)
        parts = list(scan(file, ("text",), rows=size))
        assert [t for part in parts for t in part.rows["text"]] == wanted
        for part in reversed(parts):
            assert read(file, ("text",), part.start, part.start + part.count, part.offset) == part.rows


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_longer_than_a_read_block_agree(suffix: str, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(2 * SCAN_ROWS + 77)]
    file = write(tmp_path / f"c{suffix}", texts)
    for size in (SCAN_ROWS - 1, SCAN_ROWS, SCAN_ROWS + 1, 700):
        parts = list(scan(file, ("text",), rows=size))
        assert [t for part in parts for t in part.rows["text"]] == texts
        for part in parts[-2:]:
            assert read(file, ("text",), part.start, part.start + part.count, part.offset) == part.rows


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_became_shorter_is_noticed(suffix: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"c{suffix}", ["a", "b", "c", "d"])
    *_, last = scan(file, ("text",), rows=2)
    file = write(tmp_path / f"c{suffix}", ["a", "b", "c"])
    with pytest.raises(CorpusError, match="ends before row 4"):
        read(file, ("text",), last.start, 4, last.offset)
    file = write(tmp_path / f"c{suffix}", ["a"])
    with pytest.raises(CorpusError, match="ends before row 4"):
        read(file, ("text",), last.start, 4, last.offset)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_file_has_no_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        path.write_bytes(b"")
    assert list(scan(source(path), ("text",), rows=3)) == []


def test_blank_lines_are_rows_of_text_and_no_rows_of_json(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\na\n\n\nb\n\n")
    assert [t for p in scan(source(tmp_path / "c.txt"), ("text",), rows=2) for t in p.rows["text"]] == ["", "a", "", "", "b", ""]
    (tmp_path / "c.jsonl").write_bytes(b'\n \n{"text": "a"}\n\t\r\n{"text": "b"}\n\n')
    assert [t for p in scan(source(tmp_path / "c.jsonl"), ("text",), rows=1) for t in p.rows["text"]] == ["a", "b"]


@pytest.mark.parametrize("names", [("text",), ("text", "label"), ("label", "idx", "note", "text")])
def test_formats_agree_on_values_and_hash(names: tuple[str, ...], tmp_path: Path) -> None:
    lines = [{"text": r["text"], "label": r["label"], "idx": r["idx"], "note": r["note"], "score": r["score"]} for r in rows(20, 3)]
    jsonl = source(write_jsonl(tmp_path / "c.jsonl", lines))
    parquet = source(write_parquet(tmp_path / "c.parquet", lines, group=6))
    left, right = (read(file, names, 4, 17, None if file is parquet else next(_offset(jsonl, 4))) for file in (jsonl, parquet))
    assert left == right
    assert rows_sha256(left) == rows_sha256(right)


def _offset(file: SourceFile, row: int) -> Any:
    return (part.offset for part in scan(file, ("text",), rows=1) if part.start == row)


DIFFERENT = [
    {"a": ["x", "y"]},
    {"a": ["xy", ""]},
    {"a": ["x"], "b": ["y"]},
    {"b": ["x", "y"]},
    {"a": ["x", "y "]},
    {"a": ["é"]},
    {"a": ["e\u0301"]},
    {"a": [1]},
    {"a": [1.0]},
    {"a": [True]},
    {"a": ["1"]},
    {"a": [None]},
    {"a": ["None"]},
    {"a": [float("nan")]},
    {"a": [0.1]},
    {"a": [0.1 + 2**-56]},
    {"a": []},
]


def test_the_hash_is_byte_exact() -> None:
    digests = [rows_sha256(content) for content in DIFFERENT]
    assert len(set(digests)) == len(digests)
    assert rows_sha256({"text": ["naïve 🎉", ""], "label": [1, None]}) == GOLDEN_ROWS


GOLDEN_ROWS = "46ee99830a1cf93951aca040e06eba66db889a27cd1d2ad79549260fec31f80d"


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    def choose(found: dict[str, bool], **named: Any) -> Any:
        return choose_columns(found, **{"text": (), "label": None, "keep": (), "where": "c", **named})

    assert choose({"sentence": True, "label": False, "idx": False}) == (("sentence",), "label")
    assert choose({"question": True, "sentence": True}) == (("question", "sentence"), None)
    assert choose({"premise": True, "hypothesis": True, "label": False}) == (("premise", "hypothesis"), "label")
    assert choose({"prose": True, "stars": False}, text=("prose",), label="stars") == (("prose",), "stars")
    assert choose({"a": True, "b": True}, text=("b", "a")) == (("b", "a"), None)
    assert choose({"label": True}, text=("label",)) == (("label",), None)
    for found, named in (
        ({"a": True, "b": True}, {}),
        ({"a": False}, {}),
        ({"id": True, "tokens": False}, {}),  # the only strings, but are they the text?
        ({}, {}),
        ({"a": True}, {"text": ("b",)}),
        ({"a": True}, {"keep": ("b",)}),
    ):
        with pytest.raises(UsageError):
            choose(found, **named)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_columns_of_a_file(suffix: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"c{suffix}", ["a"])
    assert file.columns() == ({"text": True} if suffix == ".txt" else {"text": True, "idx": False})


def test_large_strings_and_dictionaries_of_parquet_are_text(tmp_path: Path) -> None:
    values = ["a", "b", "a"]
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"text": pa.array(values).cast(kind)}), tmp_path / "c.parquet")
        file = source(tmp_path / "c.parquet")
        assert read(file, ("text",), 0, 3, None)["text"] == values
        assert file.columns() == {"text": True}, kind


def test_a_column_of_parquet_that_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "c.parquet", ["a"])
    with pytest.raises((CorpusError, KeyError)):
        read(file, ("prose",), 0, 1, None)


def test_a_hub_folder_has_configs_splits_class_names_and_a_licence(hub_folder: Path) -> None:
    single = open_corpus(f"{hub_folder}:single")
    assert single.name == "tinyglue:single"
    assert {s: [f.name for f in files] for s, files in single.splits.items()} == {
        "train": ["single/train-00000.parquet", "single/train-00001.parquet"],
        "validation": ["single/validation-00000.parquet"],
    }
    assert single.with_class_names().class_names == {"label": ("no", "yes")}
    assert single.license == "cc-by-4.0"
    assert list(open_corpus(f"{hub_folder}/:pair").splits) == ["train"]
    assert list(single.select(("validation",)).splits) == ["validation"]
    with pytest.raises(UsageError, match="no split 'test'; it has train, validation"):
        single.select(("test",))


def test_a_plain_folder_of_files_is_a_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", rows(3))
    write_jsonl(folder / "test.jsonl", rows(2))
    assert {s: [f.name for f in files] for s, files in open_corpus(str(folder)).splits.items()} == {
        "train": ["train.jsonl"],
        "test": ["test.jsonl"],
    }


def test_a_glob_names_files_from_their_common_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/2.jsonl", "a/1.jsonl", "b/1.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, rows(1))
    assert [f.name for f in open_corpus(str(tmp_path / "**/*.jsonl")).files] == ["a/1.jsonl", "a/2.jsonl", "b/1.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert [f.name for f in open_corpus("a/*.jsonl").files] == ["1.jsonl", "2.jsonl"]
    with pytest.raises(UsageError, match="no corpus"):
        open_corpus("c/*.jsonl")


def test_a_glob_that_reaches_a_file_by_several_ways_gives_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("g/a", "g/b"):
        (tmp_path / name).mkdir(parents=True)
        write_jsonl(tmp_path / name / "x.jsonl", rows(1))
    (tmp_path / "g/c").symlink_to("b")
    monkeypatch.chdir(tmp_path)
    for pattern in ("g/*/../*/x.jsonl", "g/*/x.jsonl"):
        files = open_corpus(pattern).files
        assert [f.local().resolve().relative_to(tmp_path.resolve()).as_posix() for f in files] == ["g/a/x.jsonl", "g/b/x.jsonl"]


@pytest.mark.parametrize("name", ["https://host/reviews.csv", "ftp://host/reviews.jsonl", "hf://datasets/owner/name", "file:///r.csv"])
def test_the_error_for_another_uri_says_what_to_give_instead(name: str) -> None:
    with pytest.raises(UsageError, match=r"is a URI of another kind: give a path on this machine, s3:// or gs://, or owner/name"):
        open_corpus(name)


def test_columns_that_would_have_been_chosen() -> None:
    every = late_columns(["prose"], ("prose",), None, named=False)
    assert ("label",) in every and ("text",) in every and ("question", "sentence") in every
    assert late_columns(["prose"], ("prose",), None, named=True) == (("label",),)
    assert late_columns(["prose", "stars"], ("prose",), "stars", named=True) == ()
    found = late_columns(["text", "question"], ("text",), None, named=False)
    assert ("sentence",) in found and ("text",) not in found and all(found)
    assert late_columns(["question", "sentence"], ("question", "sentence"), "label", named=False) == ()


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicence: mit\n---\n", None),
        ("---\n[1, 2]\n---\n", None),
        ("---\n{: bad\n---\n", None),
        ("# no head\n", None),
        ("", None),
        ("---\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_that_of_the_readme(head: str, wanted: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(head)
    assert folder_license(tmp_path) == wanted
