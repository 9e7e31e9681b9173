"""CSV and TSV: records of cells, quoted where needed, under a header row. All cells are strings.

Quotes are those of RFC 4180: a cell that begins with one ends with one, and has them doubled inside. What does not fit is an error, never
a guess: a quote too many would swallow the lines up to the next one.
"""

import csv
from collections.abc import Generator, Iterator

from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.tasks import TEXT_COLUMNS
from textsmooth.stages.corpus.column_types import cell_type
from textsmooth.stages.corpus.jsonl import byte_lines, decoded
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, SourceFile

DELIMITERS = ",;|\t"  # that files are written with
TEXT_NAMES = {name for names in TEXT_COLUMNS for name in names}
CELL_CHARACTERS = 1 << 27  # the longest cell; where a quote is never closed, reading stops there
BLOCK_BYTES = 1 << 20
QUOTES = (
    "a cell that begins with a quote has to end with one, and a quote inside is doubled; if quotes are plain text here, convert to .jsonl"
)


class _Feed:
    """The lines of a file for csv.reader, which takes them one by one: where it stands is where the next record begins."""

    def __init__(self, file: SourceFile, offset: int) -> None:
        self.file, self.start, self.offset, self.line = file, offset, offset, 0  # line: of those read from here
        self.row, self.record = 0, 0  # the record being read, and its first line
        self._blocks = byte_lines(file, offset)
        self._lines = self._all()

    def _all(self) -> Iterator[str]:
        for where, lines in self._blocks:
            for at, line in zip(where, lines, strict=True):
                self.line += 1
                if self.file.delimiter == "\t" and self.line > self.record + 1:
                    raise CorpusError(f"{self.place}: a quoted cell does not end on its line, as cells of tab-separated files do; {QUOTES}")
                self.offset = at + len(line) + 1
                yield decoded(self.file, self.row, line) + "\n"

    def __iter__(self) -> Iterator[str]:
        return self._lines

    @property
    def place(self) -> str:
        line = f" (line {self.record + 1})" if self.start == 0 else ""
        return f"row {self.row} of {self.file}{line}"

    def close(self) -> None:
        self._blocks.close()


def _records(feed: _Feed) -> Iterator[tuple[int, list[str]]]:
    """(byte offset, cells) of each record; a blank line is none. The caller counts feed.row."""
    csv.field_size_limit(max(CELL_CHARACTERS, csv.field_size_limit()))
    reader = csv.reader(feed, delimiter=feed.file.delimiter, strict=True)
    while True:
        feed.record = feed.line
        at = feed.offset
        try:
            record = next(reader, None)
        except csv.Error as error:
            what = str(error)
            if "end of data" in what or "field limit" in what:
                what = "a quote is opened and never closed"
            elif "new-line character" in what:
                what = "a lone carriage return stands in a cell without quotes"
            raise CorpusError(f"{feed.place}: {what}; {QUOTES}") from None
        if record is None:
            return
        if record:
            yield at, record


def _header(feed: _Feed, records: Iterator[tuple[int, list[str]]]) -> list[str]:
    """The names of the columns; none for an empty file."""
    _, names = next(records, (0, []))
    for name in names:
        if not name.strip():
            raise CorpusError(f"{feed.file} has an empty name in its header row ({', '.join(names)}): every column needs one")
        if names.count(name) > 1:
            raise CorpusError(f"{feed.file} has {name!r} twice in its header row: rename one of the columns")
    other = next((d for d in DELIMITERS if d != feed.file.delimiter and d in names[0]), None) if len(names) == 1 else None
    if other:
        remedy = {",": "name it .csv", "\t": "name it .tsv"}.get(other, f"convert it, or give a folder whose README.md has sep: {other!r}")
        raise CorpusError(f"{feed.file} is read as one column, {names[0]!r}: its delimiter seems to be {other!r}; {remedy}")
    return names


def _rows(feed: _Feed, names: list[str], records: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for at, cells in records:
        if len(cells) != len(names):
            raise CorpusError(f"{feed.place} has {len(cells)} cells, the header {len(names)}: {', '.join(names)}")
        yield at, cells
        feed.row += 1


def blocks(file: SourceFile, names: tuple[str, ...], row: int, offset: int) -> Generator[Block, None, None]:
    """The rows of a file from a row on, at a byte offset behind the header, or 0."""
    feed = _Feed(file, 0)
    try:
        records = _records(feed)
        header = _header(feed, records)
        missing = [name for name in names if name not in header]
        if missing and header:
            raise CorpusError(f"{file} has no column {missing[0]!r}; it has {', '.join(header)}")
        if offset > feed.offset:
            feed.close()
            feed = _Feed(file, offset)
            records = _records(feed)
        feed.row = row
        chosen = [header.index(name) for name in names] if header else []
        where: list[int] = []
        found: list[list[str]] = []
        for at, cells in _rows(feed, header, records):
            where.append(at)
            found.append([cells[i] for i in chosen])
            if len(found) == SCAN_ROWS or at - where[0] > BLOCK_BYTES:
                yield Block(where=where, columns=[list(values) for values in zip(*found, strict=True)], count=len(found))
                where, found = [], []
        if found:
            yield Block(where=where, columns=[list(values) for values in zip(*found, strict=True)], count=len(found))
    finally:
        feed.close()


def columns(file: SourceFile) -> dict[str, bool]:
    """The columns of a file, none if it has no rows, and whether each holds text.

    It does if its name is one of a text column, or a cell in the first SCAN_ROWS rows is neither empty nor a number.
    """
    feed = _Feed(file, 0)
    try:
        records = _records(feed)
        names = _header(feed, records)
        found = {name: name in TEXT_NAMES for name in names}
        for _, cells in _rows(feed, names, records):
            found.update({name: found[name] or cell_type(cell) is str for name, cell in zip(names, cells, strict=True)})
            if feed.row == SCAN_ROWS:
                break
        return found if feed.row else {}
    finally:
        feed.close()
