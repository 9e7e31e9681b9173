"""Shards whose digests fit and whose contents do not: refused in one line where they are opened, before anything reads them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from textsmooth.schemas.errors import DatasetError
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.shard import ShardReader, shard_bytes

Change = Callable[[pa.RecordBatch], pa.RecordBatch]


def with_values(name: str, change: Callable[[list[Any]], list[Any]], kind: pa.DataType | None = None) -> Change:
    """A change of the values of a column, and of its type if one is given."""

    def changed(batch: pa.RecordBatch) -> pa.RecordBatch:
        field = batch.schema.field(name)
        field = field if kind is None else field.with_type(kind)
        values = pa.array(change(batch.column(name).to_pylist()), field.type)
        return batch.set_column(batch.schema.get_field_index(name), field, values)

    return changed


def first(value: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """Only the first row's value becomes another."""
    return lambda rows: [value(rows[0]), *rows[1:]]


def written(batch: pa.RecordBatch, codec: str | None = None, names: tuple[bytes, bytes] | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
    return sink.getvalue() if names is None else pa.py_buffer(sink.getvalue().to_pybytes().replace(*names))


@pytest.fixture
def refusal(kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[pa.RecordBatch], pa.Buffer]], str]:
    """The one line that says why a dataset of such a shard is not read."""

    def refused(data: Callable[[pa.RecordBatch], pa.Buffer]) -> str:
        monkeypatch.setattr(kit, "shard_bytes", data)
        folder = kit.write_dataset(tmp_path / "d", {"train": [kit.random_rows(1, 20).block]})
        with pytest.raises(DatasetError) as error:
            SmoothedDataset(folder, "train").batch(np.arange(3))
        assert str(error.value).isprintable()
        return str(error.value)

    return refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_values("input_ids", lambda rows: rows, pa.list_(pa.uint32())), "has column input_ids: list<item: uint32> where the manifest"),
        (
            with_values("input_ids", lambda rows: [[*map(str, row)] for row in rows], pa.list_(pa.string())),
            "has column input_ids: list<item",
        ),
        (with_values("soft_logprobs", lambda rows: rows, pa.list_(pa.list_(pa.float32()))), "has column soft_logprobs: list<item"),
        (lambda batch: batch.drop_columns(["log_tail"]), "where the manifest promises log_tail: list<item: halffloat>"),
        (lambda batch: batch.append_column("extra", pa.nulls(len(batch))), "has column extra: null where the manifest promises none"),
        (with_values("label", first(lambda _: None)), "has null in column label"),
        (with_values("soft_ids", first(lambda row: [*row[:-1], None])), "has null in column soft_ids"),
        (with_values("label", first(lambda _: -2)), "row 0: has label -2"),
        (with_values("log_tail", first(lambda row: row[:-1])), "row 0: has "),
        (with_values("soft_ids", first(lambda row: [row[0], row[1][:-1], *row[2:]])), "row 0, token 1: has "),
        (with_values("log_tail", first(lambda row: [row[0], float("nan"), *row[2:]])), "row 0, token 1: has log_tail that is not a number"),
        (with_values("original_logprob", first(lambda row: [0.5, *row[1:]])), "row 0, token 0: has original_logprob that is not a number"),
        (with_values("soft_logprobs", first(lambda row: [[float("nan")] * len(one) for one in row])), "has soft_logprobs that are not"),
        (
            with_values("log_partition", first(lambda row: [[float("inf")] * len(one) for one in row])),
            "has log_partition that is not a number",
        ),
    ],
)
def test_columns_and_values_that_the_format_does_not_have(change: Change, message: str, refusal: Callable[..., str]) -> None:
    line = refusal(lambda batch: shard_bytes(change(batch)))
    assert message in line and "train/00000.arrow" in line


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_shard_that_expands_without_measure_is_not_decompressed(codec: str, tmp_path: Path) -> None:
    zeros = pa.RecordBatch.from_arrays([pa.array(np.zeros(50_000_000, np.int64))], ["row"])
    (tmp_path / "bomb.arrow").write_bytes(written(zeros, codec))
    del zeros
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match="would expand to 400,000,000"):
        ShardReader(tmp_path / "bomb.arrow")
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_dictionaries_are_refused(refusal: Callable[..., str]) -> None:
    encoded = with_values("row", lambda rows: rows, pa.dictionary(pa.int8(), pa.int64()))
    assert "has column row: dictionary<" in refusal(lambda batch: written(encoded(batch)))


def test_a_column_name_that_is_not_utf8(refusal: Callable[..., str]) -> None:
    assert "damaged" in refusal(lambda batch: written(batch, names=(b"log_tail", b"log_ta\xff\xfe")))


def test_no_damage_of_a_footer_raises_another_error(kit: ModuleType, tmp_path: Path) -> None:
    folder = kit.write_dataset(tmp_path / "d", {"train": [kit.random_rows(1, 20).block]})
    shard = folder / SmoothedDataset(folder, "train").shards[0].path
    whole, refused = shard.read_bytes(), 0
    for place in range(10, 600):
        shard.write_bytes(whole[:-place] + b"\xff\xff\x7f" + whole[len(whole) - place + 3 :])
        try:
            SmoothedDataset(folder, "train", verify=False).batch(np.arange(3))
        except DatasetError as error:
            assert str(error).isprintable()
            refused += 1
    assert refused > 100
