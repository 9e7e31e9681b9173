"""Text files and JSON Lines, and the lines of a plain or compressed file.

A line ends with \\n or \\r\\n, the last one also with the file. Offsets count bytes of the decompressed file.
"""

import io
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Protocol

from textsmooth.schemas.errors import CorpusError, first_line
from textsmooth.schemas.tasks import LABEL_COLUMN
from textsmooth.stages.corpus.source_file import SCAN_ROWS, Block, FileFormat, LateColumns, SourceFile

READ_BYTES = 1 << 18
MOST_DIGITS = 4300  # of an integer that int() takes
BOM = b"\xef\xbb\xbf"
UTF_16_OR_32 = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
HEAD_BYTES = 256  # of the first line; they show UTF-16 and UTF-32 without a byte order mark

Lines = tuple[list[int], list[bytes]]  # byte offsets, lines without \n


class _ByteStream(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def _decompressed(file: SourceFile, offset: int) -> Iterator[_ByteStream]:
    """The decompressed bytes of a file, from an offset on."""
    with file.open() as stored:
        if file.compression is None:
            stored.seek(offset)
            yield stored
            return
        if stored.seek(0, io.SEEK_END) == 0:
            raise CorpusError(f"{file} is empty, without even a {file.compression} header; write it again")
        stored.seek(0)
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), file.compression) as stream:
            to_skip = offset
            while to_skip and (skipped := stream.read(min(to_skip, READ_BYTES))):
                to_skip -= len(skipped)
            yield stream


def byte_lines(file: SourceFile, offset: int = 0) -> Generator[Lines, None, None]:
    """The lines of a file from an offset on, a batch at a time, without the byte order mark at the start of the file.

    CorpusError for a file that cannot be read, or whose compressed data is damaged or cut off.
    """
    import pyarrow as pa

    position, unfinished = offset, [b""]  # unfinished: pieces of a line that has not ended yet
    try:
        with _decompressed(file, offset) as stream:
            while data := stream.read(READ_BYTES):
                if b"\n" not in data:
                    unfinished.append(data)
                    continue
                lines = (b"".join(unfinished) + data).split(b"\n")
                unfinished = [lines.pop()]
                offsets = list(accumulate((len(line) + 1 for line in lines), initial=position))
                first, position = position, offsets.pop()
                yield offsets, _without_bom(file, first, lines)
            last = b"".join(unfinished)
            if last and (position, last) != (0, BOM):
                yield [position], _without_bom(file, position, [last])
    except (OSError, pa.ArrowException) as error:
        if file.compression is None:
            raise CorpusError(f"cannot read {file}: {getattr(error, 'strerror', None) or first_line(error)}") from None
        raise CorpusError(
            f"{file} is damaged or cut off ({first_line(error)}, after byte {position} of its content): write or download it again"
        ) from None


def _without_bom(file: SourceFile, offset: int, lines: list[bytes]) -> list[bytes]:
    if offset == 0:
        encoding = next((name for mark, name in UTF_16_OR_32.items() if lines[0].startswith(mark)), _unmarked(lines[0][:HEAD_BYTES]))
        if encoding:
            raise CorpusError(f"{file} is {encoding}, UTF-8 is needed: iconv -f {encoding} -t UTF-8 {file.name}")
        lines[0] = lines[0].removeprefix(BOM)
    return lines


def _unmarked(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by the zero bytes beside Latin letters, digits and spaces; None for other text."""
    if len(head) < 4 or not head.strip(b"\0"):
        return None
    zeros = [head[i::4].count(0) / len(head[i::4]) for i in range(4)]
    high = "".join(str(int(share > 0.8)) for share in zeros)
    return {"0111": "UTF-32LE", "1110": "UTF-32BE", "0101": "UTF-16LE", "1010": "UTF-16BE"}.get(high)


def decode_line(file: SourceFile, row: int, line: bytes) -> str:
    """A line as text. CorpusError if it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"row {row} of {file} is not UTF-8 ({error.reason} at byte {error.start} of the row): convert the file, e.g. with iconv"
        ) from None


@dataclass(frozen=True)
class TextLines(FileFormat):
    """Plain text: every line is a row, an empty one too. The only column is `text`."""

    line_based: ClassVar[bool] = True

    def columns(self, file: SourceFile) -> dict[str, bool]:
        return {"text": True}

    def blocks(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: LateColumns) -> Generator[Block, None, None]:
        for offsets, lines in byte_lines(file, offset):
            texts = [decode_line(file, row + i, line[:-1] if line.endswith(b"\r") else line) for i, line in enumerate(lines)]
            yield Block(offsets=offsets, columns=[texts for _ in names], count=len(texts))
            row += len(texts)


@dataclass(frozen=True)
class JsonLines(FileFormat):
    """JSON Lines: every line that is not blank is a row, one JSON object."""

    line_based: ClassVar[bool] = True

    def columns(self, file: SourceFile) -> dict[str, bool]:
        is_text: dict[str, bool] = {}
        row = 0
        for _, lines in byte_lines(file):
            for line in lines:
                if line and not line.isspace():
                    value = _parse(file, row, decode_line(file, row, line))
                    if not value:
                        raise CorpusError(f"row {row} of {file} is an empty object: it has no columns")
                    if row == 0 and all(isinstance(v, dict) and next(iter(v), "").isdecimal() for v in value.values()):
                        raise CorpusError(
                            f"{file} is a table by columns, as pandas.to_json() writes it: write rows with orient='records', lines=True"
                        )
                    is_text.update({name: isinstance(v, str) or is_text.get(name, False) for name, v in value.items()})
                    row += 1
                    if row == SCAN_ROWS:
                        return is_text
        return is_text

    def blocks(self, file: SourceFile, names: tuple[str, ...], row: int, offset: int, late: LateColumns) -> Generator[Block, None, None]:
        late_names = {name for group in late for name in group}
        for line_offsets, lines in byte_lines(file, offset):
            offsets: list[int] = []
            rows: list[list[Any]] = []
            for line_offset, line in zip(line_offsets, lines, strict=True):
                if line and not line.isspace():
                    text = decode_line(file, row, line)
                    value = _parse(file, row, text)
                    try:
                        rows.append([value[name] for name in names])
                    except KeyError as error:
                        raise CorpusError(f"row {row} of {file} has no column {error}; it has {', '.join(value) or 'none'}") from None
                    if not late_names.isdisjoint(value):
                        _check_late(file, row, late, value)
                    if "\\ud" in text or "\\uD" in text:
                        _check_unicode(file, row, names, rows[-1])
                    offsets.append(line_offset)
                    row += 1
            if rows:
                yield Block(offsets=offsets, columns=[list(values) for values in zip(*rows, strict=True)], count=len(rows))


def _check_late(file: SourceFile, row: int, late: LateColumns, value: dict[str, Any]) -> None:
    for group in late:
        if all(value.get(name) is not None for name in group):
            problem = f"row {row} of {file} has {', '.join(map(repr, group))}, which the first {SCAN_ROWS:,} rows do not have"
            if group == (LABEL_COLUMN,):
                raise CorpusError(f"{problem}: write it in every row, null for no label, or remove it from all rows")
            raise CorpusError(f"{problem}: name the text with --text-column")


class _DuplicateKeyError(ValueError):
    """A JSON object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
# For lines with integers of more digits than int() takes: cut, they are still more than 64 bits hold.
_LONG_INTEGERS = json.JSONDecoder(object_pairs_hook=_object, parse_int=lambda digits: int(digits[:MOST_DIGITS]))


def _parse(file: SourceFile, row: int, line: str) -> dict[str, Any]:
    """The object in a line of JSON. CorpusError if there is none, or it has a key twice."""
    try:
        value = _decode(line)
    except _DuplicateKeyError as error:
        raise CorpusError(f"row {row} of {file} has {str(error)!r} twice: remove one of them") from None
    except RecursionError:
        raise CorpusError(f"row {row} of {file} is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        if line.startswith("\ufeff"):
            raise CorpusError(f"row {row} of {file} begins with a byte order mark: files were put together; remove the mark") from None
        advice = _advice(file, line, error.pos) if row == 0 else ""
        raise CorpusError(f"row {row} of {file} is not JSON ({error}){advice}") from None
    if isinstance(value, list) and row == 0:
        raise CorpusError(f"{file} is one JSON array, one object a line is needed: jq -c '.[]' {file.name} > {file.name}l")
    if not isinstance(value, dict):
        raise CorpusError(f"row {row} of {file} is not a JSON object but {type(value).__name__}")
    return value


def _decode(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (json.JSONDecodeError, _DuplicateKeyError):
        raise
    except ValueError:
        return _LONG_INTEGERS.decode(line)


def _advice(file: SourceFile, line: str, position: int) -> str:
    """What to do about a first line that is not JSON: an object or array over several lines is, and jq can read it."""
    first = line.lstrip()[:1]
    if first not in ("[", "{"):
        return ""
    if not line[position:].strip():
        jq_filter = "'.[]'" if first == "[" else "."
        return f": one JSON object a line is needed, convert it with jq -c {jq_filter} {file.name}"
    quotes = ", with strings and keys in double quotes" if line[position] == "'" else ""
    return f": one JSON object a line is needed{quotes}, as json.dumps writes it"


def _check_unicode(file: SourceFile, row: int, names: tuple[str, ...], values: list[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise CorpusError(f"row {row} of {file}: column {name!r} has half of a surrogate pair, which is not a character") from None
