"""Write the rows of a dataset as Parquet files, for the Hub's viewer, DuckDB, Polars and the like: `textsmooth convert --format parquet`.

A folder of Parquet files is no smoothed dataset: students are trained on the dataset it was made of. Log-probabilities become float32,
because few readers know float16.
"""

from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet

from textsmooth.pipeline.commit.finished import Previous
from textsmooth.pipeline.commit.receipts import receipt_name
from textsmooth.schemas.errors import ConflictError
from textsmooth.schemas.manifest import CARD
from textsmooth.schemas.plan import Unit
from textsmooth.stages.storage.folder import Folder, is_temp

CARD_TEXT = """---
configs:
- config_name: default
  data_files:
{files}
---
Rows of the smoothed dataset `{dataset}` (teacher: {teacher}) as Parquet, written by `textsmooth convert --format parquet`. textsmooth's
docs/format.md says what each column holds; log-probabilities are float32 here. Students are trained on the smoothed dataset itself.
"""


def parquet_path(unit: Unit) -> str:
    return f"{unit.split}/{PurePosixPath(receipt_name(unit)).stem}.parquet"


def units_to_write(source: Previous, out: Folder, *, overwrite: bool) -> list[Unit]:
    """The units whose file is not there yet. ConflictError if the folder holds anything else."""
    names = {parquet_path(unit): unit for unit in source.plan.units}
    present = {} if not out.exists() else out.files()
    other = [name for name in present if name not in names and name != CARD and not is_temp(name)]
    if other and not overwrite:
        raise ConflictError(f"{out} has {other[0]}, which is no file of this conversion; give another OUT")
    return [unit for name, unit in names.items() if overwrite or name not in present]


def write_parquet(out: Folder, unit: Unit, batch: pa.RecordBatch) -> None:
    """Write one file, in one piece."""
    table = pa.Table.from_batches([batch.replace_schema_metadata(None)])
    columns = [column.cast(_wide(column.type)) for column in table.columns]
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table(columns, names=table.column_names), sink, compression="zstd", row_group_size=1024)
    out.put(parquet_path(unit), memoryview(sink.getvalue()))


def _wide(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(kind):
        return pa.float32()
    return pa.list_(_wide(kind.value_type)) if pa.types.is_list(kind) else kind


def write_card(source: Previous, out: Folder) -> None:
    files = "\n".join(f"  - split: {split}\n    path: {split}/*.parquet" for split in source.manifest.splits)
    text = CARD_TEXT.format(files=files, dataset=source.manifest.dataset[:12], teacher=source.plan.teacher.name)
    out.put(CARD, text.encode())


def bytes_of(source: Previous, out: Folder) -> int:
    files = out.files()
    return sum(files[parquet_path(unit)] for unit in source.plan.units)
