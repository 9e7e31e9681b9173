"""Every file format: the same rows from each, whatever the compression, the unit size and the place the reading begins."""

import csv
import gzip
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsmooth.schemas.errors import CorpusError
from textsmooth.stages.corpus import jsonl as lines_module
from textsmooth.stages.corpus import reader as readers
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.reader import read, rows_sha256, scan
from textsmooth.stages.corpus.source_file import SourceFile

TEXTS = [
    "plain",
    "",
    " \t ",
    'quote " and \\ and, comma',
    "'tis",
    "ünïcödé 日本 🎉",
    "שלום עולם",
    "\u2028 line separator \x85 next line",
    "nul \x00 inside",
    "a\tb",
    "x" * 5000,
]
ROWS = [{"text": TEXTS[i % len(TEXTS)] + (str(i) if i >= len(TEXTS) else ""), "label": i % 3} for i in range(4 * len(TEXTS) + 5)]


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    readers.close_idle()


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def csv_bytes(rows: list[dict[str, Any]], delimiter: str = ",", end: str = "\r\n", bom: bool = False) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return (b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode()


def content(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """Rows as a file of a format."""
    match kind:
        case ".txt":
            return "".join(row["text"] + "\n" for row in rows).encode()
        case ".jsonl" | ".ndjson" | ".json":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        case ".csv":
            return csv_bytes(rows)
        case ".tsv":
            return csv_bytes(rows, "\t", "\n")
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    if kind == ".parquet":
        pq.write_table(table, sink, row_group_size=13)
    elif kind == ".arrow":
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, 7)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, 7)
    return sink.getvalue()


LINES = [".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"]
KINDS = [kind + zipped for kind in LINES for zipped in COMPRESSED] + [".parquet", ".arrow", ".stream.arrow"]


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> SourceFile:
    zipped = next((end for end in (".gz", ".zst") if kind.endswith(end)), "")
    plain = kind.removesuffix(zipped)
    data = COMPRESSED[zipped](content(plain, rows))
    path = folder / f"c{kind}"
    path.write_bytes(data)
    return source_file(path.name, path=path)


@dataclass(frozen=True)
class Elsewhere:
    """A remote file: its bytes come from memory, it has no path."""

    data: bytes
    url: str

    def local(self) -> Path:
        raise AssertionError("a streamed file was fetched")

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)

    def stat(self) -> list[int]:
        return [len(self.data), hash(self.data)]


def streamed(folder: Path, kind: str, rows: list[dict[str, Any]]) -> SourceFile:
    data = write(folder, kind, rows).local().read_bytes()
    return source_file("c", remote=Elsewhere(data, f"hf://datasets/a/b@c/c{kind}"), streamed=True)


def values(kind: str, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What a file of a format gives: CSV has strings only, text files have text only."""
    found: dict[str, list[Any]] = {"text": [row["text"] for row in rows]}
    if not kind.startswith(".txt"):
        found["label"] = [str(row["label"]) if kind.startswith((".csv", ".tsv")) else row["label"] for row in rows]
    return found


@pytest.mark.parametrize("make", [write, streamed])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_its_rows_by_ranges(kind: str, make: Callable[..., SourceFile], tmp_path: Path) -> None:
    file = make(tmp_path, kind, ROWS)
    wanted = values(kind, ROWS)
    names = tuple(wanted)
    assert file.columns() == {"text": True, "label": False} if len(names) == 2 else {"text": True}
    for size, limit in ((1, None), (7, None), (10, 23), (1000, None)):
        parts = list(scan(file, names, rows=size, limit=limit))
        assert {name: [v for part in parts for v in part.rows[name]] for name in names} == {n: v[:limit] for n, v in wanted.items()}
        assert [part.start for part in parts] == list(range(0, len(ROWS[:limit]), size))
        for part in (*parts, *parts[::-1], *parts[::3]):  # on, backwards, and in jumps
            again = read(file, names, part.start, part.start + part.count, part.offset)
            assert again == part.rows
            assert rows_sha256(again) == rows_sha256(part.rows)
    with pytest.raises(CorpusError, match=f"ends before row {len(ROWS) + 1}"):
        *_, last = scan(file, names, rows=1)
        read(file, names, last.start, len(ROWS) + 1, last.offset)


@pytest.mark.parametrize("zipped", [".gz", ".zst"])
def test_a_compressed_file_is_decompressed_once_for_all_units(zipped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, ".jsonl" + zipped, ROWS * 50)
    parts = list(scan(file, ("text",), rows=100))
    opened: list[int] = []
    real = lines_module._decompressed
    monkeypatch.setattr(lines_module, "_decompressed", lambda file, offset: opened.append(offset) or real(file, offset))

    def again(part: readers.RowRange) -> None:
        assert read(file, ("text",), part.start, part.start + part.count, part.offset) == part.rows

    for part in parts[::2]:  # in order, some left out
        again(part)
    assert opened == [0]
    again(parts[3])  # backwards: from the start again
    again(parts[4])
    assert opened == [0, parts[3].offset]


def test_units_are_read_right_by_threads_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, ".jsonl.gz", ROWS * 10)
    parts = list(scan(file, ("text", "label"), rows=17))
    wrong: list[int] = []

    def work(mine: list[readers.RowRange]) -> None:
        for part in mine:
            if read(file, ("text", "label"), part.start, part.start + part.count, part.offset) != part.rows:
                wrong.append(part.start)

    threads = [threading.Thread(target=work, args=(parts[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_written_anew_is_not_read_from_the_old_one(tmp_path: Path) -> None:
    for kind in (".jsonl", ".jsonl.gz", ".parquet"):
        file = write(tmp_path, kind, ROWS)
        second = list(scan(file, ("text",), rows=10))[1]
        read(file, ("text",), 0, 10, None)
        changed = [{**row, "text": "other" + row["text"]} for row in ROWS]
        file = write(tmp_path, kind, changed)
        first_again = next(scan(file, ("text",), rows=10))
        assert first_again.rows["text"][0] == "otherplain"
        assert second.rows["text"] != read(file, ("text",), 10, 20, list(scan(file, ("text",), rows=10))[1].offset)["text"]


def test_only_so_many_files_stay_open(tmp_path: Path) -> None:
    files = []
    for i in range(3 * readers.IDLE_READERS):
        (tmp_path / str(i)).mkdir()
        files.append(write(tmp_path / str(i), ".jsonl.gz", ROWS))
    for file in files:
        read(file, ("text",), 0, 3, 0)
    assert len(readers._idle) == readers.IDLE_READERS
    readers.close_idle()
    assert not readers._idle


@pytest.mark.parametrize("zipped", [".gz", ".zst"])
def test_members_that_follow_each_other_are_one_file(zipped: str, tmp_path: Path) -> None:
    lines = [f"line {i}\n".encode() for i in range(3000)]
    pieces = [b"".join(lines[:700]), b"", b"".join(lines[700:701]), b"".join(lines[701:])[:-3], b"".join(lines)[-3:]]
    path = tmp_path / f"c.txt{zipped}"
    path.write_bytes(b"".join(COMPRESSED[zipped](piece) for piece in pieces))
    found = [t for part in scan(source_file("c", path=path), ("text",), rows=100) for t in part.rows["text"]]
    assert found == [f"line {i}" for i in range(3000)]


@pytest.mark.parametrize("zipped", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_off_is_an_error_and_never_fewer_rows(zipped: str, tmp_path: Path) -> None:
    whole = COMPRESSED[zipped](content(".jsonl", ROWS))
    path = tmp_path / f"c.jsonl{zipped}"
    file = source_file("c.jsonl", path=path)
    for length in (0, 1, 5, 10, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=r"damaged or cut off|is empty") as raised:
            list(scan(file, ("text",), rows=10))
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    for damaged in (whole + b"more", b"plain text\n", bytes([*whole[:-30], *(255 - b for b in whole[-30:])])):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"damaged or cut off|UTF-8|JSON"):
            list(scan(file, ("text",), rows=10))
    path.write_bytes(COMPRESSED[zipped](b""))
    assert list(scan(file, ("text",), rows=10)) == []


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".stream.arrow"])
def test_a_damaged_table_is_an_error(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path, kind, ROWS)
    whole = file.local().read_bytes()
    for data in (b"", b"PAR1", b"ARROW1\0\0", whole[: len(whole) // 2], whole[:-20] if kind != ".stream.arrow" else whole[:-3000]):
        file.local().write_bytes(data)
        with pytest.raises(CorpusError, match="cannot read") as raised:
            list(scan(file, ("text",), rows=10))
        assert "\n" not in str(raised.value)
        with pytest.raises(CorpusError, match="cannot read"):
            file.columns()
            list(scan(file, ("text",), rows=10))


@pytest.mark.parametrize("make", [write, streamed])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_stream_without_its_end_is_an_error_and_never_fewer_rows(legacy: bool, make: Callable[..., SourceFile], tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.Table.from_pylist([{"text": "cat", "label": -1}] * 4)
    ends = []
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(use_legacy_format=legacy)) as writer:
        for batch in table.to_batches(2):
            writer.write_batch(batch)
            ends.append(sink.tell())
    whole = sink.getvalue()
    assert len(whole) - ends[-1] == (4 if legacy else 8)

    def texts(data: bytes) -> list[str]:
        path = tmp_path / "c.arrow"
        path.write_bytes(data)
        file = source_file("c", path=path)
        if make is streamed:
            file = source_file("c", remote=Elsewhere(data, "hf://datasets/a/b@c/c.arrow"), streamed=True)
        return [text for part in scan(file, ("text",), rows=3) for text in part.rows["text"]]

    assert texts(whole) == ["cat"] * 4
    for end in ends:
        with pytest.raises(CorpusError, match="the end of the stream is missing"):
            texts(whole[:end])
    with pytest.raises(CorpusError, match=f"more data after the end of its stream, at byte {len(whole)}"):
        texts(whole + whole)


LATE = (("label",), ("question", "sentence"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"text": "a", "label": 0},
            "row 1500 of {} has 'label', which the first 1,024 rows do not have: write it in every row, null",
        ),
        (
            {"text": "a", "question": "b", "sentence": "c"},
            "has 'question', 'sentence', which the first 1,024 rows do not have: name the",
        ),
        ({"text": "a", "label": None, "question": "b"}, None),
        ({"text": "a", "other": 3}, None),
    ],
)
def test_columns_that_come_late_are_told(row: dict[str, Any], words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(content(".jsonl", [{"text": "a"}] * 1500 + [row]))
    file = source_file("c", path=path)
    assert sum(part.count for part in scan(file, ("text",), rows=400)) == 1501
    if words is None:
        assert sum(part.count for part in scan(file, ("text",), rows=400, late=LATE)) == 1501
        return
    with pytest.raises(CorpusError) as raised:
        list(scan(file, ("text",), rows=400, late=LATE))
    assert words.format(path) in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_no_such_file_and_no_such_column(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path, kind, ROWS)
    if not kind.startswith(".txt"):
        with pytest.raises(CorpusError, match="has no column 'prose'; it has text, label"):
            read(file, ("prose",), 0, 1, None)
    file.local().unlink()
    with pytest.raises(CorpusError, match=r"cannot read .*No such file"):
        read(file, ("text",), 0, 1, None)


@pytest.mark.parametrize("kind", [".parquet", ".arrow", ".stream.arrow"])
def test_class_names_of_metadata(kind: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"text": "a", "label": 1}])
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    for metadata, wanted in (
        (json.dumps({"info": {"features": features}}), {"label": ("no", "yes")}),
        (json.dumps({"info": {}}), {}),
        (None, {}),
    ):
        marked = table.replace_schema_metadata({"huggingface": metadata} if metadata else None)
        path = tmp_path / f"c{kind}"
        if kind == ".parquet":
            pq.write_table(marked, path)
        else:
            with (pa.ipc.new_file if kind == ".arrow" else pa.ipc.new_stream)(str(path), marked.schema) as writer:
                writer.write_table(marked)
        assert source_file("c", path=path).class_names() == wanted
    pq.write_table(table.replace_schema_metadata({"huggingface": "no json"}), tmp_path / "d.parquet")
    with pytest.raises(CorpusError, match="metadata `huggingface`"):
        source_file("d", path=tmp_path / "d.parquet").class_names()


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "c.parquet")
    with pytest.raises(CorpusError, match="two columns 'text'"):
        source_file("c", path=tmp_path / "c.parquet").columns()


def test_long_rows_come_in_small_batches(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " + "long " * 200_000} for i in range(7)]
    for kind in (".parquet", ".arrow", ".jsonl", ".csv", ".txt.gz"):
        file = write(tmp_path, kind, rows)
        taken = [part.rows["text"] for part in scan(file, ("text",), rows=5)]
        assert [len(part) for part in taken] == [5, 2] and [text for part in taken for text in part] == [row["text"] for row in rows]
        biggest = max(block.count for block in file.format.blocks(file, ("text",), 0, 0, ()))
        assert biggest <= 5, (kind, biggest)
