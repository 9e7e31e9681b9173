"""A codec of another layout, registered by one CodecSpec and one Codec, goes through generation, reading, verify and training data."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from textsmooth.pipeline import generate, verify
from textsmooth.schemas.codecs import CODECS, CodecSpec
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.shard import METADATA_KEY, ShardMeta
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.soft_ids import SoftIds, id_dtype
from textsmooth.stages import SmoothedCollator, SmoothedDataset
from textsmooth.stages.soft_ids.codec import Codec, TokenBlock, decode, find_codec
from textsmooth.stages.soft_ids.shard import ShardReader


class PackedCodec(Codec):
    """Everything about a row's soft ids in one string of bytes: counts, ids, and the numbers in float16 and float32."""

    def fields(self, meta: ShardMeta) -> list[pa.Field]:
        return [pa.field("soft_packed", pa.binary())]

    def encode(self, block: TokenBlock) -> dict[str, pa.Array]:
        soft, row_offsets = block.soft, block.row_offsets
        packed = []
        counts = np.diff(soft.offsets)
        for start, stop in pairwise(row_offsets):
            entries = slice(soft.offsets[start], soft.offsets[stop])
            parts = (
                np.array([soft.log_partition.shape[1], soft.ids.itemsize], np.uint32),
                counts[start:stop].astype(np.uint32),
                soft.log_partition[start:stop],
                soft.ids[entries].astype(np.uint32),
                soft.logprobs[entries].astype(np.float16),
                soft.log_tail[start:stop].astype(np.float16),
                soft.original_logprob[start:stop].astype(np.float16),
            )
            packed.append(b"".join(part.tobytes() for part in parts))
        return {"soft_packed": pa.array(packed, pa.binary())}

    def decode(self, batch: pa.RecordBatch, row_offsets: NDArray[np.signedinteger]) -> SoftIds:
        vocab_size = ShardMeta.of(batch.schema, "a test").vocab_size
        rows = [self._row(data.as_py(), int(n)) for data, n in zip(batch.column("soft_packed"), np.diff(row_offsets), strict=True)]
        counts, partition, ids, logprobs, log_tail, original = (np.concatenate(part) for part in zip(*rows, strict=True))
        return SoftIds(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(row_offsets.dtype),
            ids=ids.astype(id_dtype(vocab_size)),
            logprobs=logprobs,
            log_tail=log_tail,
            original_logprob=original,
            log_partition=partition,
        )

    def _row(self, data: bytes, tokens: int) -> tuple[NDArray[Any], ...]:
        at = 0

        def take(dtype: Any, count: int) -> NDArray[Any]:
            nonlocal at
            found = np.frombuffer(data, dtype, count, at)
            at += found.nbytes
            return found

        temperatures, _ = take(np.uint32, 2)
        counts = take(np.uint32, tokens)
        partition = take(np.float32, tokens * temperatures).reshape(tokens, temperatures)
        ids = take(np.uint32, counts.sum())
        return counts, partition, ids, take(np.float16, len(ids)), take(np.float16, tokens), take(np.float16, tokens)

    def entry_bytes(self, vocab_size: int) -> float:
        return 6

    def log_error(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        return find_codec("plain").log_error(size)


CODEC = PackedCodec()


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(CODECS, "packed", CodecSpec(module=__name__, columns=("soft_packed",)))
    return "packed"


def test_a_codec_needs_one_spec_and_one_class(packed: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 40, "topk": 4, "mass": 0.9, "temperatures": [1, 2], "splits": "train"}
    generate("demo", out=tmp_path / "packed", codec=packed, **options)
    generate("demo", out=tmp_path / "plain", **options)
    datasets = [SmoothedDataset(tmp_path / codec, "train") for codec in ("packed", "plain")]
    assert datasets[0].manifest.config["codec"] == "packed"
    shard = ShardReader(tmp_path / "packed" / datasets[0].manifest.shards[0].path)
    assert shard.schema.names == ["row", "input_ids", "token_type_ids", "soft_packed", "label"]

    blocks = [dataset.batch(np.arange(40)) for dataset in datasets]
    for name in ("offsets", "ids", "logprobs", "log_tail", "original_logprob", "log_partition"):
        np.testing.assert_array_equal(*(getattr(block.soft, name) for block in blocks))
    batches = [SmoothedCollator.for_dataset(d, smoothing=Smoothing(temperature=2.0))(b) for d, b in zip(datasets, blocks, strict=True)]
    assert batches[0].soft is not None and batches[1].soft is not None
    np.testing.assert_array_equal(batches[0].soft.weights, batches[1].soft.weights)
    assert verify(tmp_path / "packed").findings == ()

    card = (tmp_path / "packed" / "README.md").read_text(encoding="utf-8")
    assert "soft_logprobs" not in card, "the snippets for other readers are for nested lists"
    assert "soft_logprobs" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")


def test_a_column_of_a_codec_cannot_be_kept(packed: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "the river is cold", "soft_packed": 1}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="cannot keep column 'soft_packed'"):
        generate(str(tmp_path / "c.jsonl"), teacher="demo", keep_columns=["soft_packed"], out=tmp_path / "out")


def test_a_codec_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="codec 'packed' is not one of plain, compact"):
        generate("demo", codec="packed", out=tmp_path)
    raw = b'{"format": 1, "codec": "packed"}'
    batch = pa.RecordBatch.from_pydict({"input_ids": [[1]]}, pa.schema([("input_ids", pa.list_(pa.int32()))], metadata={METADATA_KEY: raw}))
    with pytest.raises(DatasetError, match="codec 'packed', this version of textsmooth reads plain, compact; update textsmooth"):
        decode(batch.append_column("row", pa.array([0])))
