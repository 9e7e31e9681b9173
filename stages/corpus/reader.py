"""Read rows of one input file by ranges, without loading the file whole.

A reader that stopped at a row stays open for the next range: a compressed file is decompressed once for all units of a run.
"""

import atexit
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NoReturn

from textsmooth.schemas.errors import CorpusError
from textsmooth.stages.corpus.column_types import NO_VALUE
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, LateColumns, SourceFile

IDLE_READERS = 4  # files kept open between ranges

Rows = dict[str, list[Any]]  # column -> values


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """Consecutive rows of one file, and where they start."""

    start: int
    offset: int | None  # byte offset of the first row, of a line-based format; behind any compression
    rows: Rows
    count: int


class _Reader:
    """An open file at a row."""

    def __init__(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: LateColumns) -> None:
        self.names, self.row = names, row
        self._blocks = file.format.blocks(file, names, row, offset, late)
        self._block = Block(offsets=None, columns=[[] for _ in names], count=0)
        self._taken = 0  # rows of the block

    def take(self, most: int) -> RowRange | None:
        """The next rows, at most `most` of them; None at the end of the file."""
        start, offset, count = self.row, None, 0
        rows: Rows = {name: [] for name in self.names}
        while count < most:
            if self._taken == self._block.count:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._block, self._taken = block, 0
                continue
            low, high = self._taken, min(self._taken + most - count, self._block.count)
            if not count and self._block.offsets is not None:
                offset = self._block.offsets[low]
            for name, values in zip(self.names, self._block.columns, strict=True):
                rows[name] += values[low:high]
            count, self._taken = count + high - low, high
        self.row += count
        return RowRange(start=start, offset=offset, rows=rows, count=count) if count else None

    def close(self) -> None:
        self._blocks.close()  # and its files with it


_idle: OrderedDict[tuple[Any, ...], _Reader] = OrderedDict()
_lock = Lock()


def _acquire(file: SourceFile, names: tuple[str, ...], row: int, offset: int | None, late: LateColumns) -> tuple[tuple[Any, ...], _Reader]:
    """A reader that is at a row, and its key among the idle ones."""
    try:
        key = (os.getpid(), str(file), file.format, *file.stat(), names, late)  # the process: file positions are shared after a fork
    except OSError as error:
        raise CorpusError(f"cannot read {file}: {error.strerror}") from None
    with _lock:
        idle = _idle.pop(key, None)
    if idle is not None:
        can_seek = file.format.line_based and file.compression is None
        if idle.row == row or (idle.row < row and not can_seek):
            while idle.row < row and idle.take(min(row - idle.row, SCAN_ROWS)):
                pass
            return key, idle
        idle.close()
    return key, _Reader(file, names, row, offset or 0, late)


def _release(key: tuple[Any, ...], reader: _Reader) -> None:
    with _lock:
        surplus = [old] if (old := _idle.pop(key, None)) else []
        _idle[key] = reader
        while len(_idle) > IDLE_READERS:
            surplus.append(_idle.popitem(last=False)[1])
    for old in surplus:
        old.close()


@atexit.register
def close_idle() -> None:
    """Close the files that are kept open between ranges."""
    with _lock:
        readers = list(_idle.values())
        _idle.clear()
    for reader in readers:
        reader.close()


def read(file: SourceFile, names: tuple[str, ...], start: int, stop: int, offset: int | None) -> Rows:
    """Rows start .. stop of a file. CorpusError if the file ends earlier."""
    with closing(scan(file, names, rows=stop - start, limit=stop, start=start, offset=offset or 0)) as ranges:
        row_range = next(ranges, None)
    if row_range is None or row_range.count != stop - start:
        raise CorpusError(f"{file} ends before row {stop}: it changed since the run was planned; run again with another --out")
    return row_range.rows


def scan(
    file: SourceFile,
    names: tuple[str, ...],
    *,
    rows: int,
    limit: int | None = None,
    start: int = 0,
    offset: int = 0,
    late: LateColumns = (),
) -> Generator[RowRange, None, None]:
    """The file's rows up to row `limit`, in ranges of `rows`, the last one shorter; beginning at row `start`, byte `offset`.

    late: groups of columns that are missing from the first rows. CorpusError for a row of JSON that has all columns of a group.
    """
    key, reader = _acquire(file, names, start, offset, late)
    reached_limit = False
    try:
        while limit is None or reader.row < limit:
            row_range = reader.take(rows if limit is None else min(rows, limit - reader.row))
            if row_range is None:
                return
            reached_limit = limit is not None and reader.row >= limit
            yield _renumbered(file, row_range)
    finally:
        if reached_limit:
            _release(key, reader)
        else:
            reader.close()


def _renumbered(file: SourceFile, row_range: RowRange) -> RowRange:
    """The rows with integer classes in the corpus's numbering. CorpusError for the number of no class of the file."""
    if not file.class_numbers:
        return row_range
    rows = dict(row_range.rows)
    for column, numbers in file.class_numbers:
        number: dict[Any, int | None] = {None: None, -1: -1, **dict(enumerate(numbers))}
        values = rows.get(column, [])
        wrong = next((i for i, value in enumerate(values) if value == value and value not in number), None)
        if wrong is not None:
            raise CorpusError(
                f"row {row_range.start + wrong} of {file}: column {column!r} is {values[wrong]}, its {len(numbers)} classes are "
                f"0..{len(numbers) - 1}"
            )
        if column in rows:
            rows[column] = [number[value] if value == value else None for value in values]
    return replace(row_range, rows=rows)


def rows_sha256(rows: Rows) -> str:
    """sha256 of rows: of the JSON of column -> values, keys sorted, no spaces, floats as the shortest text that reads back the same.

    1, 1.0, true and "1" are four values; NaN is one. CorpusError for a value that JSON does not have: bytes, a date.
    """
    try:
        text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_not_json)
    except RecursionError:
        raise CorpusError(f"a value of {', '.join(rows)} is nested too deeply to be kept") from None
    return hashlib.sha256(text.encode()).hexdigest()


def _not_json(value: Any) -> NoReturn:
    raise CorpusError(f"a row holds a value of type {type(value).__name__}: {NO_VALUE}")
