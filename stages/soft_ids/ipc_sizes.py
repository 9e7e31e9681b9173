"""How much memory the compressed buffers of an Arrow IPC file take once they are read.

Arrow allocates what a buffer announces, and pyarrow tells only afterwards. So the few fields of the file's flatbuffers that lead to the
announced lengths are read here: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

import struct
from collections.abc import Iterator

MAGIC = b"ARROW1"


def uncompressed_bytes(data: memoryview) -> int:
    """Length of all compressed buffers of a file after decompression. ValueError if the file is damaged."""
    try:
        (size,) = struct.unpack_from("<i", data, len(data) - len(MAGIC) - 4)
        footer = _root(data, len(data) - len(MAGIC) - 4 - size)
        return sum(_of_batch(data, *block) for field in (2, 3) for block in _blocks(data, footer, field))
    except struct.error as error:
        raise ValueError(f"its footer points outside the file ({error})") from None


def _blocks(data: memoryview, footer: int, field: int) -> Iterator[tuple[int, int]]:
    """Where messages of dictionaries (field 2) or record batches (field 3) begin, and where their bodies do."""
    for at in _vector(data, footer, field, 24):
        offset, metadata = struct.unpack_from("<qi", data, at)
        yield offset, offset + metadata


def _of_batch(data: memoryview, at: int, body: int) -> int:
    marker, _ = struct.unpack_from("<Ii", data, at)
    message = _root(data, at + (8 if marker == 0xFFFFFFFF else 4))
    kind, header = _field(data, message, 1), _table(data, message, 2)
    if kind and header and data[kind] == 2:  # a dictionary batch holds a record batch
        header = _table(data, header, 1)
    if not header or not _field(data, header, 3):  # not compressed
        return 0
    buffers = [struct.unpack_from("<qq", data, place) for place in _vector(data, header, 2, 16)]
    lengths = [struct.unpack_from("<q", data, body + offset)[0] for offset, length in buffers if length >= 8]
    return sum(max(length, 0) for length in lengths)  # -1: stored as it is


def _root(data: memoryview, at: int) -> int:
    return int(at + struct.unpack_from("<I", data, at)[0])


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a table is; 0 if it is not set."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
    return int(table + offset) if offset else 0


def _table(data: memoryview, table: int, number: int) -> int:
    at = _field(data, table, number)
    return _root(data, at) if at else 0


def _vector(data: memoryview, table: int, number: int, item_bytes: int) -> range:
    """Where the items of a vector begin."""
    at = _table(data, table, number)
    count = struct.unpack_from("<I", data, at)[0] if at else 0
    if count * item_bytes > len(data):
        raise ValueError(f"it announces {count:,} items in {len(data):,} bytes")
    return range(at + 4, at + 4 + count * item_bytes, item_bytes)
