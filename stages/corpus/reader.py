"""Rows of one input file, read by ranges. Files are never loaded whole.

A reader that stops at a row is kept open for whoever goes on there: unit after unit, a compressed file is decompressed once.
"""

import atexit
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import Any, NoReturn

from textsmooth.schemas.errors import CorpusError
from textsmooth.stages.corpus import arrow as tables
from textsmooth.stages.corpus import csv as delimited
from textsmooth.stages.corpus import jsonl as lines
from textsmooth.stages.corpus.column_types import NO_VALUE
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, SourceFile

IDLE_READERS = 4  # files kept open between ranges

Rows = dict[str, list[Any]]  # column -> values
Late = tuple[tuple[str, ...], ...]  # groups of columns


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """Consecutive rows of one file, with where they start."""

    start: int
    offset: int | None  # byte offset of the first row, for line formats; behind any compression
    rows: Rows
    count: int


def columns(file: SourceFile) -> dict[str, bool]:
    """The columns of a file, and whether each holds text; for line formats, by the first SCAN_ROWS rows. CorpusError if unreadable."""
    if file.format in tables.FORMATS:
        return tables.columns(file)
    if file.format == "csv":
        return delimited.columns(file)
    return lines.columns(file)


def class_names(file: SourceFile) -> dict[str, tuple[str, ...]]:
    """Names of integer classes by column, from the feature types that `datasets` leaves in Parquet and Arrow metadata."""
    return tables.class_names(file) if file.format in tables.FORMATS else {}


class _Reader:
    """An open file at a row."""

    def __init__(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: Late) -> None:
        self.names, self.row = names, row
        self._blocks = _blocks(file, names, row, offset, late)
        self._block = Block(where=None, columns=[[] for _ in names], count=0)
        self._taken = 0

    def take(self, most: int) -> RowRange | None:
        """The next rows, at most so many; None at the end of the file."""
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
            if not count and self._block.where is not None:
                offset = self._block.where[low]
            for name, values in zip(self.names, self._block.columns, strict=True):
                rows[name] += values[low:high]
            count, self._taken = count + high - low, high
        self.row += count
        return RowRange(start=start, offset=offset, rows=rows, count=count) if count else None

    def close(self) -> None:
        self._blocks.close()  # and its files with it


def _blocks(file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: Late = ()) -> Generator[Block, None, None]:
    if file.format in tables.FORMATS:
        return tables.blocks(file, names, row)
    if file.format == "jsonl":
        return lines.json_blocks(file, names, row, offset, late)
    read = delimited.blocks if file.format == "csv" else lines.text_blocks
    return read(file, names, row, offset)


_idle: OrderedDict[tuple[Any, ...], _Reader] = OrderedDict()
_lock = Lock()


def _lend(file: SourceFile, names: tuple[str, ...], row: int, offset: int | None, late: Late) -> tuple[tuple[Any, ...], _Reader]:
    """A reader that stands at a row, and its key."""
    try:
        key = (os.getpid(), str(file), file.format, file.delimiter, *file.stat(), names, late)  # after a fork, file positions are shared
    except OSError as error:
        raise CorpusError(f"cannot read {file}: {error.strerror}") from None
    with _lock:
        found = _idle.pop(key, None)
    if found is not None and found.row <= row and (found.row == row or not _can_jump(file)):
        while found.row < row and found.take(min(row - found.row, SCAN_ROWS)):
            pass
        return key, found
    if found is not None:
        found.close()
    return key, _Reader(file, names, row, offset or 0, late)


def _can_jump(file: SourceFile) -> bool:
    return file.format in lines.FORMATS and file.compression is None


def _keep(key: tuple[Any, ...], reader: _Reader) -> None:
    with _lock:
        extra = [old] if (old := _idle.pop(key, None)) else []
        _idle[key] = reader
        while len(_idle) > IDLE_READERS:
            extra.append(_idle.popitem(last=False)[1])
    for old in extra:
        old.close()


@atexit.register
def close_idle() -> None:
    """Close the files that are kept open between ranges."""
    with _lock:
        found = list(_idle.values())
        _idle.clear()
    for reader in found:
        reader.close()


def read(file: SourceFile, names: tuple[str, ...], start: int, stop: int, offset: int | None) -> Rows:
    """Rows start .. stop of a file. CorpusError if it ends before."""
    with closing(scan(file, names, rows=stop - start, limit=stop, start=start, offset=offset or 0)) as parts:
        found = next(parts, None)
    if found is None or found.count != stop - start:
        raise CorpusError(f"{file} ends before row {stop}: it changed since the run was planned; run again with another --out")
    return found.rows


def scan(
    file: SourceFile, names: tuple[str, ...], *, rows: int, limit: int | None = None, start: int = 0, offset: int = 0, late: Late = ()
) -> Generator[RowRange, None, None]:
    """The file's rows up to row `limit`, in ranges of `rows`, the last one shorter; beginning at row `start`, byte `offset`.

    late: groups of columns that `columns` did not find. CorpusError for a row of JSON that has all of a group.
    """
    key, reader = _lend(file, names, start, offset, late)
    whole = False
    try:
        while limit is None or reader.row < limit:
            found = reader.take(rows if limit is None else min(rows, limit - reader.row))
            if found is None:
                return
            whole = limit is not None and reader.row >= limit
            yield found
    finally:
        if whole:
            _keep(key, reader)
        else:
            reader.close()


def rows_sha256(rows: Rows) -> str:
    """sha256 over the content of rows: over JSON of column -> values, keys sorted, no spaces, floats as the shortest text that reads back.

    1, 1.0, true and "1" are four values; NaN is one. CorpusError for a value that is none of JSON's: bytes, a date.
    """
    try:
        text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_no_json)
    except RecursionError:
        raise CorpusError(f"a value of {', '.join(rows)} is nested too deep to be kept") from None
    return hashlib.sha256(text.encode()).hexdigest()


def _no_json(value: Any) -> NoReturn:
    raise CorpusError(f"a row holds a value of type {type(value).__name__}: {NO_VALUE}")
