"""CSV and TSV: what the csv module would let pass silently is an error here, and cells get one type for all rows."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.task_kinds import CLASS, VALUE
from textsmooth.stages.corpus.column_types import ColumnKind, arrow_type, cell_type, typed
from textsmooth.stages.corpus.formats import source_file
from textsmooth.stages.corpus.reader import read, scan
from textsmooth.stages.corpus.source_file import SourceFile

CELLS = st.text(st.one_of(st.sampled_from('",\n\r\t 0a'), st.characters(exclude_categories=["Cs"])), max_size=6)


def put(folder: Path, data: str | bytes, name: str = "c.csv", delimiter: str | None = None) -> SourceFile:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return source_file(name, path=folder / name, delimiter=delimiter)


def all_rows(file: SourceFile, names: tuple[str, ...] = ("text", "label"), size: int = 2) -> dict[str, list[Any]]:
    parts = list(scan(file, names, rows=size))
    for part in reversed(parts):
        assert read(file, names, part.start, part.start + part.count, part.offset) == part.rows
    return {name: [value for part in parts for value in part.rows[name]] for name in names}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12), size=st.integers(1, 5), end=st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_read_back_by_ranges(rows: list[tuple[str, str]], size: int, end: str, tmp_path: Path) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end)
    writer.writerow(["text", "label"])
    writer.writerows(rows)
    found = all_rows(put(tmp_path, out.getvalue()), size=size)
    assert found == {"text": [a for a, _ in rows], "label": [b for _, b in rows]}


@pytest.mark.parametrize(
    ("data", "text", "label"),
    [
        ("text,label\na,1\nb,2\n", ["a", "b"], ["1", "2"]),
        ("text,label\r\na,1\r\nb,2", ["a", "b"], ["1", "2"]),
        ("\ufefftext,label\na,1\n", ["a"], ["1"]),
        ('\ufeff"text","label"\n"a","1"\n', ["a"], ["1"]),
        ("text,label\n\n\na,1\n\nb,2\n\n", ["a", "b"], ["1", "2"]),
        ('text,label\n"a\nb\r\nc, ""d""",1\n,\n', ['a\nb\r\nc, "d"', ""], ["1", ""]),
        ('label,"text",more\n1,a,x\n', ["a"], ["1"]),
        ('text,label\na "quoted" word,1\n', ['a "quoted" word'], ["1"]),
        ("text,label\n a , 1\n", [" a "], [" 1"]),
        ("text,label\nNULL,NaN\n", ["NULL"], ["NaN"]),
        ("text,label\n", [], []),
        ("", [], []),
        ("text,label\n" + "x" * 1_500_000 + ",1\n", ["x" * 1_500_000], ["1"]),
    ],
)
def test_records(data: str, text: list[str], label: list[str], tmp_path: Path) -> None:
    assert all_rows(put(tmp_path, data)) == {"text": text, "label": label}


def test_tabs_and_other_delimiters(tmp_path: Path) -> None:
    assert all_rows(put(tmp_path, 'text\tlabel\na, b\t1\n"c\td"\t2\n', "c.tsv")) == {"text": ["a, b", "c\td"], "label": ["1", "2"]}
    assert all_rows(put(tmp_path, "text;label\na,b;1\n", delimiter=";")) == {"text": ["a,b"], "label": ["1"]}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("c.csv", "text,text\na,b\n", "has 'text' twice in its header row"),
        ("c.csv", "text,,label\na,b,c\n", "has an empty name in its header row"),
        ("c.csv", "text,label\na,1\nb\n", "row 1 of {} (line 3) has 1 cells, the header 2: text, label"),
        ("c.csv", 'text,label\n"a\nb",1\nb,2,3\n', "row 1 of {} (line 4) has 3 cells"),
        ("c.csv", 'text,label\na,1\n"b,2\nc,3\n', "row 1 of {} (line 3): a quote is opened and never closed"),
        ("c.csv", 'text,label\n"a" b,1\n', "row 0 of {} (line 2): ',' expected after '\"'"),
        ("c.csv", "text,label\na\rb,1\n", "row 0 of {} (line 2): a cell without quotes has a lone carriage return"),
        ("c.tsv", 'text\tlabel\n"hello\t1\nfine\t2\n', "row 0 of {} (line 2): a quoted cell does not end on its line"),
        ("c.tsv", 'text\tlabel\nfine\t0\n"hello\t1\nfine\t2\nthe end"\t3\n', "row 1 of {} (line 3): a quoted cell does not end"),
        ("c.tsv", 'text\tlabel\n"hello" he said\t1\n', "row 0 of {} (line 2): '\t' expected after '\"'; a cell that begins"),
        (
            "c.csv",
            "text;label\na;1\n",
            "{} is read as one column, 'text;label': its delimiter seems to be ';'; convert it, or give a folder",
        ),
        ("c.csv", "text|label\na|1\n", "its delimiter seems to be '|'"),
        ("c.csv", "text\tlabel\na\t1\n", "its delimiter seems to be '\\t'; name it .tsv"),
        ("c.tsv", "text,label\na,1\n", "its delimiter seems to be ','; name it .csv"),
    ],
)
def test_what_does_not_fit_is_refused_with_row_and_line(name: str, data: str, words: str, tmp_path: Path) -> None:
    file = put(tmp_path, data, name)
    with pytest.raises(CorpusError) as raised:
        all_rows(file)
    assert words.format(file) in str(raised.value)


def test_the_columns_and_which_hold_text(tmp_path: Path) -> None:
    file = put(tmp_path, "text,label,score,mixed,none\na,1,0.5,,\nb,-2,1e3,x,\n")
    assert file.columns() == {"text": True, "label": False, "score": False, "mixed": True, "none": False}
    assert put(tmp_path, "text,label\n").columns() == {}, "no rows"
    assert put(tmp_path, "text,sentence,prose\n1,,2\n").columns() == {"text": True, "sentence": True, "prose": False}
    assert put(tmp_path, "").columns() == {}


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("", None),
        *((cell, int) for cell in ("0", "-1", "12", "-0", "999999999999999999")),
        *((cell, float) for cell in ("0.5", "-1.25", "1e5", "1E-3", "2.0")),
        *((cell, str) for cell in ("007", "+1", "1.", ".5", "1_000", " 1", "nan", "inf", "1e999", "true", "٣", "1234567890123456789012")),
    ],
)
def test_the_type_of_a_cell(cell: str, kind: type | None) -> None:
    assert cell_type(cell) is kind


@pytest.mark.parametrize(
    ("cells", "kept", "values"),
    [
        (["1", "", "-3"], "int64", [1, None, -3]),
        (["1", "", "0.5"], "float64", [1.0, None, 0.5]),
        (["1", "", "x"], "string", ["1", None, "x"]),
        (["true", "false"], "string", ["true", "false"]),
        (["007", "1"], "string", ["007", "1"]),
        (["", ""], "string", [None, None]),
    ],
)
def test_a_column_of_cells_has_one_type_over_all_ranges(cells: list[str], kept: str, values: list[Any]) -> None:
    for size in (1, 2, 9):
        kind = ColumnKind("c")
        for start in range(0, len(cells), size):
            kind.add(cells[start : start + size], "c.csv", start, cells=True)
        assert kind.kept("c") == kept
        assert typed(cells, kept) == values


def test_labels_of_cells() -> None:
    assert VALUE.from_cells(["1", "", "0.5"], None) == [1.0, None, 0.5]
    assert CLASS.from_cells(["1", "", "0"], None) == [1, None, 0]
    assert CLASS.from_cells(["yes", "", "no"], ("no", "yes")) == ["yes", None, "no"]
    assert CLASS.from_cells(["1", "0"], ("no", "yes")) == [1, 0]


@pytest.mark.parametrize(
    ("ranges", "kept"),
    [
        ([[1, None], [2]], "int64"),
        ([[1], [0.5]], "float64"),
        ([[True, None]], "bool"),
        ([[None]], "string"),
        ([[["a"], []], [None, ["b"]]], '["string"]'),
        ([[[]], [[1]], [[0.5]]], '["float64"]'),
        ([[[]]], '["string"]'),
        ([[{"a": 1}], [{"b": ["x"]}]], '{"a": "int64", "b": ["string"]}'),
    ],
)
def test_the_one_type_of_a_kept_column(ranges: list[list[Any]], kept: str) -> None:
    import pyarrow as pa

    kind = ColumnKind("c")
    for values in ranges:
        kind.add(values, "c.jsonl", 0)
    assert kind.kept("c") == kept
    values = [value for part in ranges for value in part]
    stored = pa.array(values, arrow_type(kept)).to_pylist()
    assert [value if not isinstance(value, dict) else {k: v for k, v in value.items() if v is not None} for value in stored] == values


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([[1], ["a"]], "holds int and str"),
        ([[True], [1]], "holds bool and int"),
        ([[["a"]], ["a"]], "holds list and str|holds values of different types"),
        ([[["a"]], [[1]]], "rows 0..1 of c.jsonl, holds values of different types"),
        ([[[1, "a"]]], "holds values of different types"),
        ([[2**63]], "row 0 of c.jsonl: column 'c' is 9223372036854775808, more than 64 bits hold"),
        ([[[2**63 * 4]]], "holds values of different types"),
        ([[0.5], [2**53 + 1]], "integers too large"),
        ([[{}]], "numbers, strings, booleans"),
    ],
)
def test_kept_columns_without_one_type_are_refused(ranges: list[list[Any]], words: str) -> None:
    kind = ColumnKind("c")
    with pytest.raises(CorpusError, match=words):
        for values in ranges:
            kind.add(values, "c.jsonl", 0)
        kind.kept("corpus")


def test_too_many_names_are_no_classes() -> None:
    kind = ColumnKind("label", label=True)
    with pytest.raises(CorpusError, match="more than 65536 different strings"):
        kind.add([str(i) + "x" for i in range(65537)], "c.csv", 0, cells=True)


def test_too_many_names_are_no_classes_also_where_numbers_come_first() -> None:
    kind = ColumnKind("label", label=True)
    kind.add([str(i) for i in range(65537)], "c.csv", 0, cells=True)
    with pytest.raises(CorpusError, match="more than 65536 different strings"):
        kind.add(["x"], "c.csv", 65537, cells=True)


@pytest.mark.parametrize("end", ["", ".5"])
def test_numbers_in_a_label_column_may_be_as_many_as_they_like(end: str) -> None:
    kind = ColumnKind("label", label=True)
    for start in range(0, 140_000, 70_000):
        kind.add([f"{i}{end}" for i in range(start, start + 70_000)], "c.csv", start, cells=True)
    assert kind.types == ({float} if end else {int})


@pytest.mark.parametrize("cells", [True, False])
def test_a_minus_one_among_words_is_no_class(cells: bool) -> None:
    def kind(*values: str) -> ColumnKind:
        found = ColumnKind("label", label=True)
        found.add(values, "c", 0, cells=cells)
        return found

    with pytest.raises(CorpusError, match=r"'label' of c has '-1' beside words: write null \(in CSV an empty cell\) for no label"):
        kind("pos", "-1", "neg").classes("c")
    assert kind("-1", "+1").classes("c") == ("+1", "-1")
    assert kind("-1", "0", "1").classes("c") == ("-1", "0", "1")
    assert kind("pos", "neg", "-2").classes("c") == ("-2", "neg", "pos")
