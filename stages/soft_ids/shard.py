"""Shards: Arrow IPC files, written in one piece, read through a memory map."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.manifest import AGAIN
from textsmooth.schemas.shard import ROWS_PER_RECORD_BATCH, ShardMeta
from textsmooth.stages.soft_ids.codec import TokenBlock, decode


def shard_bytes(batch: pa.RecordBatch) -> pa.Buffer:
    """The bytes of a shard file: the rows of a batch in record batches of ROWS_PER_RECORD_BATCH rows. Equal rows, equal bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        for start in range(0, batch.num_rows, ROWS_PER_RECORD_BATCH):
            writer.write_batch(batch.slice(start, ROWS_PER_RECORD_BATCH))
    return sink.getvalue()


class ShardReader:
    """One shard, memory-mapped. Cheap to open; record batches are views of the file.

    Raises DatasetError, naming the file, if it is missing, cut short, or not a shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._map = pa.memory_map(str(path))
            self._file = pa.ipc.open_file(self._map)
        except FileNotFoundError:
            raise DatasetError(f"shard {path} is missing; {AGAIN}") from None
        except (pa.ArrowInvalid, OSError) as error:
            detail = str(error).splitlines()[0]
            raise DatasetError(f"shard {path} is damaged ({detail}); {AGAIN}") from None
        self.schema: pa.Schema = self._file.schema
        self.meta = ShardMeta.of(self.schema, str(path))

    def __len__(self) -> int:
        """Number of record batches."""
        return int(self._file.num_record_batches)

    @property
    def descriptor(self) -> int:
        """The file descriptor of the map: open as long as the reader is there."""
        return int(self._map.fileno())

    @cached_property
    def rows(self) -> int:
        return sum(self.record_batch(i).num_rows for i in range(len(self)))

    def record_batch(self, index: int) -> pa.RecordBatch:
        """Record batch number `index`; all but the last have ROWS_PER_RECORD_BATCH rows."""
        try:
            return self._file.get_batch(index)
        except (pa.ArrowInvalid, OSError) as error:
            raise DatasetError(f"shard {self.path} is damaged in record batch {index} ({error})") from None

    def blocks(self) -> Iterator[TokenBlock]:
        """The shard's rows in order, one decoded record batch at a time."""
        for index in range(len(self)):
            yield decode(self.record_batch(index))
