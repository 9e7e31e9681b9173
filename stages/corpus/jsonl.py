"""Formats of lines: the lines of a file, plain or compressed, and what stands in a line of text and of JSON.

A line ends with \\n or \\r\\n, the last one also with the file. Offsets count bytes of the decompressed file.
"""

import io
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, BinaryIO, Protocol

from textsmooth.schemas.errors import CorpusError, first_line
from textsmooth.schemas.tasks import LABEL_COLUMN
from textsmooth.stages.corpus.source_file import LINE_FORMATS, SCAN_ROWS, Block, SourceFile

FORMATS = LINE_FORMATS
READ_BYTES = 1 << 18
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")

Lines = tuple[list[int], list[bytes]]  # byte offsets, lines without \n


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def _decompressed(file: SourceFile, offset: int) -> Iterator[_Bytes]:
    """The bytes of a file from an offset."""
    with file.open() as stored:
        if file.compression is None:
            stored.seek(offset)
            yield stored
            return
        if stored.seek(0, io.SEEK_END) == 0:
            raise CorpusError(f"{file} is empty: not even a {file.compression} header is in it; write it again")
        stored.seek(0)
        with _codec(file, stored) as stream:
            left = offset
            while left and (skipped := stream.read(min(left, READ_BYTES))):
                left -= len(skipped)
            yield stream


def _codec(file: SourceFile, stored: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), file.compression)


def byte_lines(file: SourceFile, offset: int = 0) -> Generator[Lines, None, None]:
    """The lines from an offset on, some at a time; a byte order mark at the start of the file is none of them.

    CorpusError for a file that cannot be read, or whose compression is damaged or cut off.
    """
    import pyarrow as pa

    at, tail = offset, [b""]  # tail: pieces of a line that has not ended yet
    try:
        with _decompressed(file, offset) as stream:
            while block := stream.read(READ_BYTES):
                if b"\n" not in block:
                    tail.append(block)
                    continue
                lines = (b"".join(tail) + block).split(b"\n")
                tail = [lines.pop()]
                starts = list(accumulate((len(line) + 1 for line in lines), initial=at))
                first, at = at, starts.pop()
                yield starts, _unmarked(file, first, lines)
            last = b"".join(tail)
            if last and (at, last) != (0, BOM):
                yield [at], _unmarked(file, at, [last])
    except (OSError, pa.ArrowException) as error:
        if file.compression is None:
            raise CorpusError(f"cannot read {file}: {getattr(error, 'strerror', None) or first_line(error)}") from None
        raise CorpusError(
            f"{file} is damaged or cut off ({first_line(error)}, after byte {at} of its content): write or fetch it again"
        ) from None


def _unmarked(file: SourceFile, offset: int, lines: list[bytes]) -> list[bytes]:
    if offset == 0:
        if lines[0].startswith(UTF_16):
            raise CorpusError(f"{file} is UTF-16, UTF-8 is needed: iconv -f UTF-16 -t UTF-8 {file.name}")
        lines[0] = lines[0].removeprefix(BOM)
    return lines


def decoded(file: SourceFile, row: int, line: bytes) -> str:
    """A line as text. CorpusError if it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"row {row} of {file} is not UTF-8 ({error.reason} at byte {error.start} of the row): convert the file, e.g. with iconv"
        ) from None


def text_blocks(file: SourceFile, names: tuple[str, ...], row: int, offset: int) -> Generator[Block, None, None]:
    """The rows of a text file from a row on: every line is one, an empty one too."""
    for where, lines in byte_lines(file, offset):
        texts = [decoded(file, row + i, line[:-1] if line.endswith(b"\r") else line) for i, line in enumerate(lines)]
        yield Block(where=where, columns=[texts for _ in names], count=len(texts))
        row += len(texts)


def json_blocks(
    file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: tuple[tuple[str, ...], ...] = ()
) -> Generator[Block, None, None]:
    """The rows of JSON lines from a row on: every line that is not blank is one.

    late: groups of columns that the first rows do not have. CorpusError for a row that has all of a group.
    """
    unexpected = {name for group in late for name in group}
    for where, lines in byte_lines(file, offset):
        places: list[int] = []
        found: list[list[Any]] = []
        for at, line in zip(where, lines, strict=True):
            if line and not line.isspace():
                text = decoded(file, row, line)
                value = parse(file, row, text)
                try:
                    found.append([value[name] for name in names])
                except KeyError as error:
                    raise CorpusError(f"row {row} of {file} has no column {error}; it has {', '.join(value) or 'none'}") from None
                if not unexpected.isdisjoint(value):
                    _check_late(file, row, late, value)
                if "\\ud" in text or "\\uD" in text:
                    _check_unicode(file, row, names, found[-1])
                places.append(at)
                row += 1
        if found:
            yield Block(where=places, columns=[list(values) for values in zip(*found, strict=True)], count=len(found))


def _check_late(file: SourceFile, row: int, late: tuple[tuple[str, ...], ...], value: dict[str, Any]) -> None:
    for group in late:
        if all(value.get(name) is not None for name in group):
            where = f"row {row} of {file} has {', '.join(map(repr, group))}, which the first {SCAN_ROWS:,} rows have not"
            if group == (LABEL_COLUMN,):
                raise CorpusError(f"{where}: write it in every row, null for no label, or take it out of all")
            raise CorpusError(f"{where}: name the text with --text-column")


class _TwiceError(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_object)


def parse(file: SourceFile, row: int, line: str) -> dict[str, Any]:
    """The object in a line of JSON. CorpusError if there is none, or a key is there twice."""
    try:
        value = _JSON.decode(line)
    except _TwiceError as error:
        raise CorpusError(f"row {row} of {file} has {str(error)!r} twice: which one counts? Take one out") from None
    except RecursionError:
        raise CorpusError(f"row {row} of {file} is nested too deep to be read") from None
    except ValueError as error:
        start = line.lstrip()[:1]
        split = "'.[]'" if start == "[" else "."
        remedy = f": one JSON object a line is needed, jq -c {split} {file.name} makes them"
        raise CorpusError(f"row {row} of {file} is not JSON ({error}){remedy if row == 0 and start in ('[', '{') else ''}") from None
    if isinstance(value, list) and row == 0:
        raise CorpusError(f"{file} is one JSON array, one object a line is needed: jq -c '.[]' {file.name} > {file.name}l")
    if not isinstance(value, dict):
        raise CorpusError(f"row {row} of {file} is not a JSON object but {type(value).__name__}")
    return value


def _check_unicode(file: SourceFile, row: int, names: tuple[str, ...], values: list[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise CorpusError(f"row {row} of {file}: column {name!r} has half of a surrogate pair, which is no character") from None


def columns(file: SourceFile) -> dict[str, bool]:
    """The columns of a text or JSON lines file, and whether each holds text, by the first SCAN_ROWS rows."""
    if file.format == "text":
        return {"text": True}
    found: dict[str, bool] = {}
    row = 0
    for _, lines in byte_lines(file):
        for line in lines:
            if line and not line.isspace():
                value = parse(file, row, decoded(file, row, line))
                if not value:
                    raise CorpusError(f"row {row} of {file} is an empty object: it has no columns")
                found.update({k: isinstance(v, str) or found.get(k, False) for k, v in value.items()})
                row += 1
                if row == SCAN_ROWS:
                    return found
    return found
