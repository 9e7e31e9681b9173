"""Files that are damaged, not downloaded or of another encoding end in one line, and never in rows that are not theirs."""

import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textsmooth.schemas.errors import CorpusError
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.reader import scan

WORDS = ["alpha", "beta", "gamma", "delta"]


def texts(path: Path, column: str = "text") -> list[str]:
    file = source_file(path.name, path=path)
    file.columns()
    return [text for part in scan(file, (column,), rows=3) for text in part.rows[column]]


@pytest.mark.parametrize(("slot", "value"), [(1, -5), (2, 1 << 28), (3, 2), (4, 1 << 30), (4, -1)])
@pytest.mark.parametrize(("kind", "code"), [(pa.string(), "i"), (pa.large_string(), "q")])
def test_damaged_offsets_of_arrow_are_refused(kind: pa.DataType, code: str, slot: int, value: int, tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(WORDS, kind)})
    path = tmp_path / "c.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    assert texts(path) == WORDS
    offsets = [0, 5, 9, 14, 19]
    data, good = path.read_bytes(), struct.pack(f"<5{code}", *offsets)
    assert data.count(good) == 1
    offsets[slot] = value
    path.write_bytes(data.replace(good, struct.pack(f"<5{code}", *offsets)))
    with pytest.raises(CorpusError, match=r"cannot read .*c\.arrow"):
        texts(path)


def test_a_union_column_is_refused_if_it_is_used_and_ignored_else(tmp_path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    table = pa.table({"text": ["x", "y"], "mixed": union, "inside": pa.StructArray.from_arrays([union], ["u"])})
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    assert texts(tmp_path / "c.arrow") == ["x", "y"]
    for name in ("mixed", "inside"):
        with pytest.raises(CorpusError, match=f"column '{name}' of .* is not supported"):
            texts(tmp_path / "c.arrow", name)


def test_parquet_pages_have_their_checksums(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(
        pa.table({"text": WORDS}), path, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    )
    data = path.read_bytes()
    assert texts(path) == WORDS and data.count(b"gamma") == 1
    path.write_bytes(data.replace(b"gamma", b"gemma"))
    with pytest.raises(CorpusError, match=r"cannot read .*c\.parquet.*CRC"):
        texts(path)


def test_parquet_gives_as_many_rows_as_its_footer_says(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": WORDS}), path, store_schema=False)
    data = path.read_bytes()
    start = len(data) - 8 - struct.unpack("<i", data[-8:-4])[0]
    footer = data[start:]
    changed = footer.replace(b"\x16\x08", b"\x16\x0a", 1)  # num_rows of the file, a zigzag varint: 4 -> 5
    assert changed != footer
    path.write_bytes(data[:start] + changed)
    with pytest.raises(CorpusError, match=r"holds 4 rows, its footer says 5|cannot read"):
        texts(path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet", ".arrow", ".txt.gz"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "Git LFS pointer, not the file: git lfs pull"),
        (b"/annex/objects/SHA256E-s7--00.txt\n", "git-annex pointer, not the file: git annex get"),
    ],
)
def test_a_pointer_is_not_the_file(suffix: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=words):
        texts(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_utf_16_and_32_are_refused_with_and_without_a_mark(encoding: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"c{suffix}").write_bytes("Öl und Wasser, naïve\nzwei\n".encode(encoding))
    with pytest.raises(CorpusError, match=f"is {encoding[:6].upper()}.*, UTF-8 is needed: iconv -f {encoding[:6].upper()}"):
        texts(tmp_path / f"c{suffix}")


def test_nul_characters_are_text(tmp_path: Path) -> None:
    lines = ["a\0b\0", "\0\0\0\0", "nul \0 inside"]
    for i in (1, 2):
        (tmp_path / "c.txt").write_text("\n".join(lines[i:]) + "\n")
        assert texts(tmp_path / "c.txt") == lines[i:]


def test_a_mark_inside_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n')
    with pytest.raises(CorpusError, match=r"row 1 of .* begins with a byte order mark"):
        texts(tmp_path / "c.jsonl")
