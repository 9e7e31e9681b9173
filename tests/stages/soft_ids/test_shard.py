"""A shard that is cut short, missing, or none is one clear error that names it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.shard import ShardMeta
from textsmooth.schemas.soft_ids import SoftIds
from textsmooth.stages.soft_ids.codec import TokenBlock, encode
from textsmooth.stages.soft_ids.shard import ShardReader, shard_bytes, shard_schema


@pytest.fixture(scope="module")
def data() -> bytes:
    """A shard of 300 rows of one token with two entries."""
    rows = 300
    block = TokenBlock(
        row=np.arange(rows),
        row_offsets=np.arange(rows + 1),
        input_ids=np.arange(rows, dtype=np.uint16),
        token_type_ids=None,
        soft=SoftIds(
            offsets=np.arange(rows + 1) * 2,
            ids=np.arange(2 * rows, dtype=np.uint16),
            logprobs=np.full(2 * rows, -1.0, np.float32),
            log_tail=np.full(rows, -2.0, np.float32),
            original_logprob=np.full(rows, -1.0, np.float32),
            log_partition=np.zeros((rows, 0), np.float32),
        ),
        label=None,
    )
    meta = ShardMeta(
        codec="plain", topk=2, mass=1.0, temperatures=(), context="unmasked", vocab_size=1000,
        teacher="t", tokenizer="k", vocab="v", split="train", unit="u",
    )  # fmt: skip
    return bytes(shard_bytes(encode(block, shard_schema(meta, token_types=False), {})))


def test_the_whole_shard_reads(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "whole.arrow").write_bytes(data)
    reader = ShardReader(tmp_path / "whole.arrow")
    assert sum(len(block) for block in reader.blocks()) == reader.rows == 300


def test_a_shard_cut_short_anywhere_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.arrow"
    for size in [*range(12), *range(12, len(data), max(len(data) // 150, 1)), *range(len(data) - 12, len(data))]:
        path.write_bytes(data[:size])
        with pytest.raises(DatasetError, match=r"cut\.arrow") as error:
            list(ShardReader(path).blocks())
        assert "\n" not in str(error.value)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.arrow is missing"):
        ShardReader(tmp_path / "gone.arrow")


def test_a_folder_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="damaged"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("stream", [False, True])
def test_another_arrow_file_is_no_shard(stream: bool, tmp_path: Path) -> None:
    path = tmp_path / "other.arrow"
    table = pa.table({"input_ids": [[1, 2]]})
    with pa.OSFile(str(path), "wb") as sink, (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DatasetError, match=r"other\.arrow"):
        ShardReader(path)


def test_damage_to_the_description_of_the_columns_is_never_a_crash(data: bytes, tmp_path: Path) -> None:
    """Flipped bytes in the values are for checksums to catch; elsewhere they are a DatasetError or harmless."""
    path = tmp_path / "bad.arrow"
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 150):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            reader = ShardReader(path)
            for index in range(len(reader)):
                reader.record_batch(index)
        except DatasetError as error:
            assert "bad.arrow" in str(error)
