"""Unusual rows: each has one stated behaviour (docs/corpora.md), the same in every format."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsmooth.schemas.errors import CorpusError
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.reader import read, rows_sha256, scan
from textsmooth.stages.corpus.source_file import SourceFile

MILLION = "né " * 350_000  # 1.4 MB
BOM = b"\xef\xbb\xbf"


def put(folder: Path, name: str, data: bytes) -> SourceFile:
    (folder / name).write_bytes(data)
    return source_file(name, path=folder / name)


def texts(file: SourceFile, size: int = 2) -> list[Any]:
    """The texts of a file, read by the plan and again by units, which must agree."""
    parts = list(scan(file, ("text",), rows=size))
    for part in reversed(parts):
        assert read(file, ("text",), part.start, part.start + part.count, part.offset) == part.rows
    return [text for part in parts for text in part.rows["text"]]


def refused(file: SourceFile) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(CorpusError) as raised:
        texts(file)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\nb\r", ["a", "b"]),
        (b"a\rb\nc", ["a\rb", "c"]),
        (b"a\r\r\nb", ["a\r", "b"]),
        (b"\n\na\n\n", ["", "", "a", ""]),
        (b" \n\t\n", [" ", "\t"]),
        (BOM + b"a\n" + BOM + b"b\n", ["a", "\ufeffb"]),
        (BOM, []),
        (b"", []),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf"]),
        (b"nul\0inside\n\0\n", ["nul\0inside", "\0"]),
        ("👩‍👩‍👧 שלום\u202e עולם\n".encode(), ["👩‍👩‍👧 שלום\u202e עולם"]),
        ((MILLION + "\nshort\n").encode(), [MILLION, "short"]),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_rows_of_text(data: bytes, wanted: list[str], zipped: bool, tmp_path: Path) -> None:
    assert texts(put(tmp_path, "c.txt.gz", gzip.compress(data)) if zipped else put(tmp_path, "c.txt", data)) == wanted


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b'\n \t\r\n{"text": "a"}\n\n{"text": "b"}', ["a", "b"]),
        (b'{"text": "a"}\r\n{"text": "b"}\r\n', ["a", "b"]),
        (BOM + b'{"text": "a"}\n', ["a"]),
        (BOM + b'\n{"text": "a"}\n', ["a"]),
        (BOM, []),
        ('{"text": "a\u2028b"}\n'.encode(), ["a\u2028b"]),
        (b'{"text": "\\u0000"}\n{"text": "\\ud83c\\udf89"}\n{"text": "\\\\ud83c"}\n', ["\0", "🎉", "\\ud83c"]),
        (b'{"text": null}\n{"text": 1}\n{"text": [NaN, "x"]}\n', [None, 1, [pytest.approx(float("nan"), nan_ok=True), "x"]]),
        (json.dumps({"text": MILLION}).encode(), [MILLION]),
        (b'{"text": 123456789012345678901234567890}\n', [123456789012345678901234567890]),
    ],
)
def test_rows_of_json_lines(data: bytes, wanted: list[Any], tmp_path: Path) -> None:
    assert [t for part in scan(put(tmp_path, "c.jsonl", data), ("text",), rows=2) for t in part.rows["text"]] == wanted


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("c.txt", b"a\nb\xffd\n", "row 1 of {} is not UTF-8 (invalid start byte at byte 1 of the row)"),
        ("c.txt", "a\n".encode("utf-16"), "{} is UTF-16, UTF-8 is needed: iconv"),
        ("c.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "row 1 of {} is not UTF-8"),
        ("c.jsonl", b'{"text": "\\ud83c"}\n', "row 0 of {}: column 'text' has half of a surrogate pair"),
        ("c.jsonl", b'{"text": [{"a": "\\uDf89"}]}\n', "row 0 of {}: column 'text' has half of a surrogate pair"),
        ("c.jsonl", b'{"text": "\xed\xa0\x80"}\n', "row 0 of {} is not UTF-8"),
        ("c.jsonl", b'{"text": "a", "text": "b"}\n', "row 0 of {} has 'text' twice"),
        ("c.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "row 1 of {} is nested too deeply"),
        ("c.jsonl", b'{"text": "a"}\n{"prose": "b"}\n', "row 1 of {} has no column 'text'; it has prose"),
        ("c.jsonl", b'{"text": "a"}\n["b"]\n', "row 1 of {} is not a JSON object but list"),
        ("c.jsonl", b'{"text": "a"}\n{"text": "b\n', "row 1 of {} is not JSON (Unterminated string"),
        ("c.json", b'[{"text": "a"}, {"text": "b"}]', "{} is one JSON array, one object a line is needed: jq -c '.[]' c.json > c.jsonl"),
        ("c.json", b'[\n  {"text": "a"}\n]\n', "one JSON object a line is needed, convert it with jq -c '.[]' c.json"),
        ("c.json", b'{\n  "text": "a"\n}\n', "one JSON object a line is needed, convert it with jq -c . c.json"),
        ("c.csv", b"text\n\xff\n", "row 0 of {} is not UTF-8"),
    ],
)
def test_rows_that_are_refused(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    file = put(tmp_path, name, data)
    assert words.format(file) in refused(file)


def test_a_json_array_is_told_when_columns_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="one JSON array"):
        put(tmp_path, "c.json", b'[{"text": "a"}]').columns()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("large", [False, True])
def test_text_of_tables_that_is_not_utf8(kind: str, large: bool, tmp_path: Path) -> None:
    raw = pa.array([b"good", None, b"b\xffd"], pa.large_binary() if large else pa.binary())
    array = (pa.LargeStringArray if large else pa.StringArray).from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0], 1)
    table = pa.table({"text": array})
    file = source_file("c", path=tmp_path / f"c.{kind}")
    if kind == "parquet":
        pq.write_table(table, file.local())
    else:
        with pa.ipc.new_file(str(file.local()), table.schema) as writer:
            writer.write_table(table)
    assert f"row 2 of {file}: column 'text' is not UTF-8 (invalid start byte at byte 1)" in refused(file)


def test_tables_keep_null_and_empty_text_apart(tmp_path: Path) -> None:
    values = ["", None, " ", "\0", "🎉", MILLION]
    pq.write_table(pa.table({"text": values}), tmp_path / "c.parquet")
    assert texts(source_file("c", path=tmp_path / "c.parquet")) == values


DIFFERENT: list[dict[str, Any]] = [
    {"a": [{"x": 1, "y": [1, 2]}]},
    {"a": [{"x": 1, "y": [1, "2"]}]},
    {"a": [{"x": 1, "y": [1]}, 2]},
    {"a": [{"x": 1, "y": [1, 2.0]}]},
    {"a": [{"x": 1, "y": None}]},
    {"a": [{"x": 1}]},
    {"a": [["float", "0.1"]]},
    {"a": [0.1]},
    {"a": [0.0]},
    {"a": [-0.0]},
    {"a": [float("inf")]},
    {"a": ["Infinity"]},
    {"a": [[]]},
    {"a": [{}]},
    {"a": [None]},
    {"a": [[], []]},
    {"a": [[[]]]},
]


def test_the_hash_tells_lists_and_structs_apart_and_not_the_order_of_keys() -> None:
    digests = [rows_sha256(content) for content in DIFFERENT]
    assert len(set(digests)) == len(digests)
    assert rows_sha256({"a": [{"y": [1, 2], "x": 1}]}) == digests[0]


@pytest.mark.parametrize("value", [b"x", pa.scalar(0, pa.timestamp("s")).as_py(), pa.scalar("1.5").cast(pa.decimal128(3, 1)).as_py()])
def test_values_that_cannot_be_carried_are_named_by_type(value: Any) -> None:
    with pytest.raises(CorpusError, match=f"holds a value of type {type(value).__name__}: numbers"):
        rows_sha256({"a": ["x", value]})
