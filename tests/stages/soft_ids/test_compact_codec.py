"""Codec compact: the same bits as plain, or a bound that holds; equal bytes; damaged and hostile shards are refused."""

import random
import struct
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from numpy.typing import NDArray

from textsmooth.schemas.codecs import parse_codec
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.shard import ShardMeta
from textsmooth.schemas.soft_ids import SoftIds, id_dtype
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, encode, find_codec
from textsmooth.stages.soft_ids.shard import ShardReader, open_ipc, shard_bytes, shard_schema

GOLDEN = Path(__file__).parent / "golden"
BITS = ("ids", "logprobs", "log_tail", "original_logprob", "log_partition")
Array = NDArray[Any]


def make_block(seed: int, *, rows: int = 5, vocab: int = 300, topk: int = 6, ragged: bool = True, temperatures: int = 1) -> TokenBlock:
    """Rows with entries as a teacher gives them: sorted, the rest in the tail; the first token of a row is left plain."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, rows)
    row_offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = int(row_offsets[-1])
    sizes = rng.integers(1, topk + 1, tokens) if ragged else np.full(tokens, topk)
    sizes[row_offsets[:-1]] = 0
    input_ids = rng.integers(0, 40, tokens).astype(id_dtype(vocab)) * (vocab // 40)
    ids, logprobs, tail, original = [], [], np.full(tokens, -np.inf), np.zeros(tokens)
    for token in np.flatnonzero(sizes):
        p = -np.sort(-rng.dirichlet(np.full(vocab, 0.02)))
        names = (rng.permutation(8) * 7 + input_ids[token]) % vocab
        names = np.concatenate([names, np.setdiff1d(np.arange(vocab), names)])
        k = sizes[token]
        ids.append(names[:k])
        log_p = np.log(np.maximum(p, 1e-30)).astype(np.float32)
        logprobs.append(log_p[:k])
        tail[token] = np.log(max(p[k:].sum(), 1e-37))
        original[token] = log_p[names == input_ids[token]][0]
    empty = [np.zeros(0)]
    return TokenBlock(
        row=np.arange(rows),
        row_offsets=row_offsets,
        input_ids=input_ids,
        token_type_ids=None,
        soft=SoftIds(
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            ids=np.concatenate(ids or empty).astype(id_dtype(vocab)),
            logprobs=np.concatenate(logprobs or empty).astype(np.float32),
            log_tail=tail,
            original_logprob=original,
            log_partition=np.where(sizes[:, None] > 0, rng.normal(size=(tokens, temperatures)), 0).astype(np.float32),
        ),
        label=None,
    )


def schema_of(codec: str, *, vocab: int = 300, topk: int = 6, temperatures: int = 1) -> pa.Schema:
    texts = dict.fromkeys(("teacher", "tokenizer", "vocab", "split", "unit"), "x")
    stored = tuple(2.0 + t for t in range(temperatures))
    meta = ShardMeta(codec=codec, topk=topk, mass=1.0, temperatures=stored, context="unmasked", vocab_size=vocab, **texts)
    return shard_schema(meta, token_types=False)


def shard(block: TokenBlock, codec: str, **sizes: int) -> bytes:
    return shard_bytes(encode(block, schema_of(codec, **sizes), {})).to_pybytes()


def read(data: bytes) -> list[TokenBlock]:
    file = open_ipc(pa.py_buffer(data))
    return [decode(file.get_batch(number)) for number in range(file.num_record_batches)]


def raw(blocks: list[TokenBlock], name: str) -> bytes:
    return b"".join(getattr(block.soft, name).tobytes() for block in blocks)


@given(seed=st.integers(0, 2**32), ragged=st.booleans(), topk=st.sampled_from([1, 2, 6, 21]), vocab=st.sampled_from([300, 70_000]))
def test_what_plain_stores_comes_back_bit_for_bit(seed: int, ragged: bool, topk: int, vocab: int) -> None:
    temperatures = seed % 3
    block = make_block(seed, topk=topk, vocab=min(vocab, 4_000), ragged=ragged, temperatures=temperatures)
    block = replace(
        block, input_ids=block.input_ids.astype(id_dtype(vocab)), soft=replace(block.soft, ids=block.soft.ids.astype(id_dtype(vocab)))
    )
    sizes = {"vocab": vocab, "topk": topk, "temperatures": temperatures}
    stored, expected = (read(shard(block, codec, **sizes)) for codec in ("compact", "plain"))
    for name in BITS:
        assert raw(stored, name) == raw(expected, name), name
    np.testing.assert_array_equal(stored[0].soft.offsets, expected[0].soft.offsets)
    assert stored[0].soft.ids.dtype == id_dtype(vocab) and stored[0].soft.logprobs.dtype == np.float16


def test_odd_numbers_come_back_too() -> None:
    block = make_block(3, ragged=False)
    block.soft.logprobs[:6] = [0.0, -0.0, -1e-9, -65504, -1e6, -np.inf]
    block.soft.original_logprob[1:4] = [-np.inf, 0.0, -0.0]
    for name in BITS:
        assert raw(read(shard(block, "compact")), name) == raw(read(shard(block, "plain")), name)


@pytest.mark.parametrize("rows", [0, 1, 256, 600])
def test_record_batches_are_decoded_by_themselves_or_joined(rows: int) -> None:
    block = make_block(1, rows=rows)
    data = shard(block, "compact")
    expected = read(shard(block, "plain"))
    file = open_ipc(pa.py_buffer(data))
    numbers = list(range(file.num_record_batches))
    for number in reversed(numbers):
        assert decode(file.get_batch(number)).soft.ids.tolist() == expected[number].soft.ids.tolist()
    if len(numbers) > 1:
        joined = pa.Table.from_batches([file.get_batch(n) for n in numbers]).combine_chunks().to_batches()
        assert decode(joined[0]).soft.logprobs.tobytes() == raw(expected, "logprobs")


@pytest.mark.parametrize("bound", [1e-5, 5e-4, 0.02])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_bound_holds(bound: float, ragged: bool) -> None:
    codec = find_codec(f"compact:{bound!r}")
    block = make_block(7, rows=300, topk=12, ragged=ragged)
    batches = open_ipc(pa.py_buffer(shard(block, f"compact:{bound!r}", topk=12)))
    exact, stored = read(shard(block, "plain", topk=12)), read(shard(block, f"compact:{bound!r}", topk=12))
    for name in ("ids", "log_partition"):
        assert raw(stored, name) == raw(exact, name)
    whole, stated, tokens = 0.0, 0.0, 0
    for number, (a, b) in enumerate(zip(exact, stored, strict=True)):
        has = np.diff(a.soft.offsets) > 0
        tokens += int(has.sum())
        for name, keep in (("logprobs", slice(None)), ("log_tail", has)):
            true, rounded = (getattr(x.soft, name)[keep].astype(np.float64) for x in (a, b))
            whole += np.abs(np.exp(true) - np.exp(rounded)).sum() / 2
            allowed = codec.log_error(np.abs(rounded)) + find_codec("plain").log_error(np.abs(true))
            finite = np.isfinite(true)
            assert (np.abs(true - rounded)[finite] <= allowed[finite]).all() and (np.isfinite(rounded) == finite).all()
        assert a.soft.log_tail[~has].tobytes() == b.soft.log_tail[~has].tobytes()
        assert a.soft.original_logprob[~has].tobytes() == b.soft.original_logprob[~has].tobytes()
        stated += codec.variation(batches.get_batch(number), b.soft)
        steps = np.diff(b.soft.logprobs.astype(np.float64))
        assert (steps[np.setdiff1d(np.arange(len(steps)), b.soft.offsets[1:-1] - 1)] <= 0).all(), "most probable first"
    assert whole <= stated <= bound * tokens * (1 + 1e-9)


def test_equal_soft_ids_give_equal_bytes() -> None:
    for codec in ("compact", "compact:0.0005"):
        assert shard(make_block(5, rows=300), codec) == shard(make_block(5, rows=300), codec)


def test_a_shard_of_an_earlier_version_is_read() -> None:
    """golden/: written by pcodec 1.1.0. Make new ones beside them when the format or the library changes; keep these."""
    expected = read(shard(make_block(11, rows=40), "plain"))
    for path in sorted(GOLDEN.glob("compact-*.arrow")):
        stored = list(ShardReader(path).blocks())
        assert raw(stored, "ids") == raw(expected, "ids")
        exact = stored[0].soft.logprobs.tobytes() == expected[0].soft.logprobs.tobytes()
        assert exact == (parse_codec(ShardReader(path).meta.codec)[1] is None)
    assert len(list(GOLDEN.glob("compact-*.arrow"))) >= 2


def test_any_change_of_its_streams_is_decoded_or_refused() -> None:
    block = make_block(2, rows=30)
    for codec in ("compact", "compact:0.001"):
        batch = encode(block, schema_of(codec), {})
        streams, table = batch.column("soft_streams")[0].as_py(), batch.column("soft_table").dictionary.to_pylist()
        rng, refused = random.Random(0), 0
        for _ in range(400):
            parts = [[bytearray(part) for part in parts] for parts in (streams, table)]
            part = rng.choice(rng.choice(parts))
            match rng.randrange(4):
                case 0:
                    part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
                case 1:
                    del part[rng.randrange(len(part)) :]
                case 2:
                    part[:] = rng.choice(rng.choice(parts))
                case 3:
                    parts[0] = parts[0][: rng.randrange(len(parts[0]))] or parts[0][:1]
            try:
                soft = decode(_with(batch, *parts)).soft
            except pa.ArrowInvalid as error:
                assert "its soft_" in str(error)
                refused += 1
            else:
                assert len(soft.ids) == len(soft.logprobs) == soft.offsets[-1] <= 6 * len(soft)
        assert refused > 100


def _with(batch: pa.RecordBatch, streams: list[bytearray], table: list[bytearray]) -> pa.RecordBatch:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns["soft_streams"] = pa.array([list(map(bytes, streams)), *[[]] * (len(batch) - 1)], pa.list_(pa.binary()))
    columns["soft_table"] = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(batch), np.int8)), pa.array(list(map(bytes, table)), pa.binary())
    )
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def test_streams_that_announce_too_much_are_refused() -> None:
    from pcodec import ChunkConfig, standalone

    batch = encode(make_block(2, rows=30, ragged=False), schema_of("compact", topk=100_000), {})
    streams, table = batch.column("soft_streams")[0].as_py(), batch.column("soft_table").dictionary.to_pylist()
    for count, message in (
        (2**31, "announce"),
        (100_001, "announce"),
        (9_000, "has not the|cannot be decompressed|too long|escapes|announce"),
    ):
        sizes = np.full(len(batch.column("input_ids").flatten()), count, np.uint32)
        with pytest.raises(pa.ArrowInvalid, match=message):
            decode(_with(batch, [standalone.simple_compress(sizes, ChunkConfig()), *streams[1:]], table))
    zeros = standalone.simple_compress(np.zeros(1 << 25, np.uint16), ChunkConfig())
    assert len(zeros) < 100_000
    with pytest.raises(pa.ArrowInvalid, match="too long"):
        decode(_with(batch, streams, [*table[:3], zeros]))


def test_compressed_buffers_that_expand_too_far_are_refused(tmp_path: Path) -> None:
    schema = schema_of("compact")
    column = pa.array([[0] * (150 << 20)], pa.list_(pa.uint8()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, pa.schema([("x", column.type)], schema.metadata), options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_batch(pa.record_batch([column], names=["x"]).replace_schema_metadata(schema.metadata))
    data = sink.getvalue().to_pybytes()
    (tmp_path / "a.arrow").write_bytes(data)
    assert len(data) < 100_000
    with pytest.raises(DatasetError, match=r"is damaged \([\d,]+ bytes would expand to 157,286,\d+\)"):
        ShardReader(tmp_path / "a.arrow")


def test_a_damaged_footer_is_refused() -> None:
    data = bytearray(shard(make_block(2), "compact"))
    (size,) = struct.unpack_from("<i", data, len(data) - 10)
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[len(data) - 10 - rng.randrange(size)] ^= 1 << rng.randrange(8)
        with suppress(pa.ArrowException, OSError, DatasetError, ValueError, KeyError):
            read(bytes(damaged))


def test_what_a_missing_library_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    find_codec.cache_clear()
    monkeypatch.setitem(sys.modules, "pcodec", None)
    with pytest.raises(UsageError, match=r"codec compact needs pcodec; install it with: pip install 'textsmooth\[compact\]'"):
        find_codec("compact")


@pytest.mark.parametrize("name", ["compact:", "compact:x", "compact:nan", "compact:0.5", "compact:-1", "plain:0.1"])
def test_bounds_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"codec '{name}'"):
        parse_codec(name)
