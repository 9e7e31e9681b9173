"""CSV and TSV: records of cells, quoted where needed, under a header row. All cells are strings.

Quotes follow RFC 4180: a cell that begins with a quote ends with one, and quotes inside it are doubled. Anything else is an error, never
a guess: one quote too many would swallow the lines up to the next quote.
"""

import csv
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.tasks import TEXT_NAMES
from textsmooth.stages.corpus.column_types import cell_type
from textsmooth.stages.corpus.jsonl import byte_lines, decode_line
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, FileFormat, LateColumns, SourceFile

LIKELY_DELIMITERS = ",;|\t"
CELL_CHARACTERS = 1 << 27  # the longest cell; if a quote is never closed, reading stops there
BLOCK_BYTES = 1 << 20
QUOTES = (
    "a cell that begins with a quote has to end with one, and a quote inside is doubled; if quotes are plain text here, convert to .jsonl"
)

Record = tuple[int, list[str]]  # byte offset, cells


class _Lines:
    """The lines of a file for csv.reader, which requests them one by one: `offset` is where the next record begins."""

    def __init__(self, file: SourceFile, delimiter: str, offset: int) -> None:
        self.file, self.delimiter, self.start, self.offset = file, delimiter, offset, offset
        self.line, self.text = 0, ""  # lines read since `start`, and the last one
        self.row, self.record_line = 0, 0  # the record being read, and its first line
        self._batches = byte_lines(file, offset)
        self._lines = self._decoded()

    def _decoded(self) -> Iterator[str]:
        for offsets, lines in self._batches:
            for offset, line in zip(offsets, lines, strict=True):
                self.line += 1
                if self.delimiter == "\t" and self.line > self.record_line + 1:
                    raise CorpusError(
                        f"{self.location}: a quoted cell does not end on its line, which tab-separated files do not allow; {QUOTES}"
                    )
                self.offset = offset + len(line) + 1
                self.text = decode_line(self.file, self.row, line) + "\n"
                yield self.text

    def __iter__(self) -> Iterator[str]:
        return self._lines

    @property
    def location(self) -> str:
        line = f" (line {self.record_line + 1})" if self.start == 0 else ""
        return f"row {self.row} of {self.file}{line}"

    def records(self) -> Iterator[Record]:
        """Offset and cells of each record; blank lines are skipped. The caller counts `row`."""
        csv.field_size_limit(max(CELL_CHARACTERS, csv.field_size_limit()))
        reader = csv.reader(self, delimiter=self.delimiter, strict=True)
        while True:
            self.record_line = self.line
            offset = self.offset
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if self.line == 1 and self.start == 0:
                    self._check_delimiter(self.text.rstrip(), '"{}"')
                problem = str(error)
                if "end of data" in problem or "field limit" in problem:
                    problem = "a quote is opened and never closed"
                elif "new-line character" in problem:
                    problem = "a cell without quotes has a lone carriage return"
                raise CorpusError(f"{self.location}: {problem}; {QUOTES}") from None
            if cells is None:
                return
            if cells:
                yield offset, cells

    def header(self, records: Iterator[Record]) -> list[str]:
        """The names of the columns, taken from `records`; none for an empty file. CorpusError for names that cannot be used."""
        _, names = next(records, (0, []))
        for name in names:
            if not name.strip():
                raise CorpusError(f"{self.file} has an empty name in its header row ({', '.join(names)}): every column needs a name")
            if names.count(name) > 1:
                raise CorpusError(f"{self.file} has {name!r} twice in its header row: rename one of the columns")
        if len(names) == 1:
            self._check_delimiter(names[0], "{}")
        return names

    def _check_delimiter(self, header: str, mark: str) -> None:
        """CorpusError if a header row has another delimiter. mark: how it is written, `{}` or `"{}"`."""
        other = next((d for d in LIKELY_DELIMITERS if d != self.delimiter and mark.format(d) in header), None)
        if other:
            remedy = {",": "name it .csv", "\t": "name it .tsv"}
            advice = remedy.get(other, f"convert it, or give a folder whose README.md has sep: {other!r}")
            raise CorpusError(f"{self.file} is read as one column, {header!r}: its delimiter seems to be {other!r}; {advice}")

    def rows(self, names: list[str], records: Iterator[Record]) -> Iterator[Record]:
        """The records below the header; `row` is counted. CorpusError for a record with another number of cells."""
        for offset, cells in records:
            if len(cells) != len(names):
                raise CorpusError(f"{self.location} has {len(cells)} cells, the header {len(names)}: {', '.join(names)}")
            yield offset, cells
            self.row += 1

    def close(self) -> None:
        self._batches.close()


@dataclass(frozen=True)
class Csv(FileFormat):
    """Delimited cells under a header row."""

    line_based: ClassVar[bool] = True
    cells_are_text: ClassVar[bool] = True

    delimiter: str

    def with_delimiter(self, delimiter: str) -> FileFormat:
        return replace(self, delimiter=delimiter)

    def columns(self, file: SourceFile) -> dict[str, bool]:
        """The columns of a file, none if it has no rows, and whether each holds text.

        A column is text if it has the name of a text column, or a cell in the first SCAN_ROWS rows is neither empty nor a number.
        """
        lines = _Lines(file, self.delimiter, 0)
        try:
            records = lines.records()
            names = lines.header(records)
            is_text = {name: name in TEXT_NAMES for name in names}
            for _, cells in lines.rows(names, records):
                is_text.update({name: is_text[name] or cell_type(cell) is str for name, cell in zip(names, cells, strict=True)})
                if lines.row == SCAN_ROWS:
                    break
            return is_text if lines.row else {}
        finally:
            lines.close()

    def blocks(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: LateColumns) -> Generator[Block, None, None]:
        lines = _Lines(file, self.delimiter, 0)
        try:
            records = lines.records()
            header = lines.header(records)
            missing = [name for name in names if name not in header]
            if missing and header:
                raise CorpusError(f"{file} has no column {missing[0]!r}; it has {', '.join(header)}")
            if offset > lines.offset:
                lines.close()
                lines = _Lines(file, self.delimiter, offset)
                records = lines.records()
            lines.row = row
            chosen = [header.index(name) for name in names] if header else []
            offsets: list[int] = []
            rows: list[list[str]] = []
            for row_offset, cells in lines.rows(header, records):
                offsets.append(row_offset)
                rows.append([cells[i] for i in chosen])
                if len(rows) == SCAN_ROWS or row_offset - offsets[0] > BLOCK_BYTES:
                    yield _block(offsets, rows)
                    offsets, rows = [], []
            if rows:
                yield _block(offsets, rows)
        finally:
            lines.close()


def _block(offsets: list[int], rows: list[list[str]]) -> Block:
    return Block(offsets=offsets, columns=[list(values) for values in zip(*rows, strict=True)], count=len(rows))
