"""A block that is encoded, written, mapped and decoded is the same block, to within the rounding of float16."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.shard import METADATA_KEY, ROWS_PER_RECORD_BATCH, ShardMeta, columns_of
from textsmooth.schemas.soft_ids import SoftIds, id_dtype
from textsmooth.stages.soft_ids import plain_codec, target_distribution
from textsmooth.stages.soft_ids.codec import TokenBlock, decode, encode
from textsmooth.stages.soft_ids.shard import ShardReader, shard_bytes, shard_schema

HALF = 2.0**-11


def meta(vocab: int = 1000, temperatures: tuple[float, ...] = ()) -> ShardMeta:
    return ShardMeta(
        codec="plain", topk=4, mass=1.0, temperatures=temperatures, context="unmasked", vocab_size=vocab,
        teacher="t", tokenizer="k", vocab="v", split="train", unit="u",
    )  # fmt: skip


def random_block(
    seed: int, rows: int, *, vocab: int = 1000, slots: int = 0, types: bool = True, label: str | None = "class", longest: int = 5
) -> TokenBlock:
    """Rows of 0 to `longest` tokens, tokens of 0 to 4 entries, some log-probabilities -inf or beyond float16."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, rows)
    tokens = int(lengths.sum())
    sizes = rng.integers(0, 5, tokens)
    entries = int(sizes.sum())

    def logprobs(count: int) -> Any:
        values = -rng.exponential(5, count).astype(np.float32)
        values[rng.random(count) < 0.05] = -np.inf
        values[rng.random(count) < 0.05] = -1e6
        return values

    labels = {"class": rng.integers(-1, 3, rows), "value": rng.normal(size=rows), None: None}
    return TokenBlock(
        row=np.arange(rows, dtype=np.int64) + 2**40,
        row_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        input_ids=rng.integers(0, vocab, tokens).astype(id_dtype(vocab)),
        token_type_ids=rng.integers(0, 2, tokens).astype(np.uint8) if types else None,
        soft=SoftIds(
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            ids=rng.integers(0, vocab, entries).astype(id_dtype(vocab)),
            logprobs=logprobs(entries),
            log_tail=logprobs(tokens),
            original_logprob=logprobs(tokens),
            log_partition=rng.normal(0, 3, (tokens, slots)).astype(np.float32),
        ),
        label=labels[label],
    )


def schema_of(block: TokenBlock, *, vocab: int = 1000, label: str | None = "class", keep: tuple[pa.Field, ...] = ()) -> pa.Schema:
    temperatures = tuple(float(t) for t in range(2, 2 + block.soft.log_partition.shape[1]))
    return shard_schema(meta(vocab, temperatures), token_types=block.token_type_ids is not None, label_kind=label, keep=keep)


def part(block: TokenBlock, start: int, stop: int) -> TokenBlock:
    """Rows start .. stop, by plain numpy."""
    low, high = block.row_offsets[start], block.row_offsets[stop]
    first, last = block.soft.offsets[low], block.soft.offsets[high]
    return TokenBlock(
        row=block.row[start:stop],
        row_offsets=block.row_offsets[start : stop + 1] - low,
        input_ids=block.input_ids[low:high],
        token_type_ids=None if block.token_type_ids is None else block.token_type_ids[low:high],
        soft=SoftIds(
            offsets=block.soft.offsets[low : high + 1] - first,
            ids=block.soft.ids[first:last],
            logprobs=block.soft.logprobs[first:last],
            log_tail=block.soft.log_tail[low:high],
            original_logprob=block.soft.original_logprob[low:high],
            log_partition=block.soft.log_partition[low:high],
        ),
        label=None if block.label is None else block.label[start:stop],
    )


def assert_rounded(found: Any, exact: Any) -> None:
    """float16 of the value: -inf stays, what is beyond float16 is its smallest number."""
    assert found.dtype == np.float16
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(exact))
    finite = ~np.isneginf(exact)
    limited = np.maximum(exact[finite].astype(np.float64), -65504)
    assert (np.abs(found[finite].astype(np.float64) - limited) <= HALF * np.abs(limited) + 2**-25).all()


def assert_same(found: TokenBlock, block: TokenBlock) -> None:
    for name in ("row", "row_offsets", "input_ids", "token_type_ids", "label"):
        left, right = getattr(found, name), getattr(block, name)
        assert (left is None) == (right is None), name
        if right is not None:
            np.testing.assert_array_equal(left, right, err_msg=name)
            assert left.dtype == right.dtype, name
    for name in ("offsets", "ids", "log_partition"):
        np.testing.assert_array_equal(getattr(found.soft, name), getattr(block.soft, name), err_msg=name)
        assert getattr(found.soft, name).dtype == getattr(block.soft, name).dtype, name
    for name in ("logprobs", "log_tail", "original_logprob"):
        assert_rounded(getattr(found.soft, name), getattr(block.soft, name))


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 30),
    slots=st.integers(0, 3),
    vocab=st.sampled_from([2, 65_536, 65_537, 70_000]),
    types=st.booleans(),
    label=st.sampled_from(["class", "value", None]),
    data=st.data(),
)
def test_round_trip_also_of_slices(seed: int, rows: int, slots: int, vocab: int, types: bool, label: str | None, data: Any) -> None:
    block = random_block(seed, rows, vocab=vocab, slots=slots, types=types, label=label)
    batch = encode(block, schema_of(block, vocab=vocab, label=label), {})
    batch.validate(full=True)
    assert_same(decode(batch), block)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert_same(decode(batch.slice(start, stop - start)), part(block, start, stop))
    file = pa.ipc.open_file(shard_bytes(batch))
    assert sum(file.get_batch(i).num_rows for i in range(file.num_record_batches)) == rows
    if rows:
        assert_same(decode(file.get_batch(0)), block)
        assert_same(decode(file.get_batch(0).slice(start, stop - start)), part(block, start, stop))


@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_RECORD_BATCH - 1, ROWS_PER_RECORD_BATCH, ROWS_PER_RECORD_BATCH + 1, 600])
def test_a_shard_holds_the_rows_in_record_batches(rows: int, tmp_path: Path) -> None:
    block = random_block(rows, rows, slots=2)
    (tmp_path / "s.arrow").write_bytes(memoryview(shard_bytes(encode(block, schema_of(block), {}))))
    reader = ShardReader(tmp_path / "s.arrow")
    assert (reader.rows, len(reader)) == (rows, -(-rows // ROWS_PER_RECORD_BATCH))
    start = 0
    for found in reader.blocks():
        assert_same(found, part(block, start, start + len(found)))
        start += len(found)
        assert start == rows or len(found) == ROWS_PER_RECORD_BATCH
    assert start == rows


def test_decoding_copies_nothing(tmp_path: Path) -> None:
    block = random_block(0, 50, slots=2)
    batch = encode(block, schema_of(block), {})
    found = decode(batch)
    for values in (found.input_ids, found.soft.ids, found.soft.logprobs, found.soft.log_tail, found.soft.log_partition):
        assert not values.flags.owndata and not values.flags.writeable


def test_equal_rows_are_equal_bytes() -> None:
    def data() -> bytes:
        block = random_block(5, 300, slots=1)
        return bytes(shard_bytes(encode(block, schema_of(block), {})))

    assert data() == data()


@pytest.mark.parametrize(("vocab", "kind"), [(1, pa.uint16()), (65_536, pa.uint16()), (65_537, pa.uint32()), (2**32, pa.uint32())])
def test_ids_have_the_narrowest_type_that_holds_the_vocabulary(vocab: int, kind: pa.DataType) -> None:
    schema = shard_schema(meta(vocab), token_types=False)
    assert schema.field("input_ids").type.value_type == kind
    assert schema.field("soft_ids").type.value_type.value_type == kind


def test_a_vocabulary_beyond_32_bits_is_an_error() -> None:
    with pytest.raises(ValueError, match="4294967297"):
        id_dtype(2**32 + 1)


def test_the_schema_describes_itself() -> None:
    written = meta(70_000, (0.5, 2.0))
    schema = shard_schema(written, token_types=True, label_kind="value", keep=(pa.field("idx", pa.int64()),))
    assert ShardMeta.of(schema, "here") == written
    spans = shard_schema(written, token_types=True, label_kind="span", windows=True, logits=2)
    assert {*schema.names, *spans.names} == {*columns_of("plain"), "idx"}
    assert [name for name in columns_of("plain") if name in spans.names] == spans.names
    assert schema.names[-2:] == ["label", "idx"] and spans.names[:2] == ["row", "window"]
    assert spans.field("teacher_logits").type == pa.list_(pa.list_(pa.float32(), 2))
    assert schema.field("log_partition").type.value_type.list_size == 2
    assert schema.field("label").type == pa.float64()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "not a shard"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"{}", "damaged"),
        (b'{"format": 1}', "damaged"),
        (b'{"format": 2}', "has format 2, this version of textsmooth reads 1"),
        (b"\xff", "damaged"),
    ],
)
def test_a_schema_that_is_not_ours_is_an_error(raw: bytes | None, words: str) -> None:
    schema = pa.schema([pa.field("row", pa.int64())], metadata=None if raw is None else {METADATA_KEY: raw})
    with pytest.raises(DatasetError, match=words) as error:
        ShardMeta.of(schema, "s.arrow")
    assert "s.arrow" in str(error.value)


def test_a_shard_that_repeats_whole_contexts_is_refused() -> None:
    spans = shard_schema(dataclasses.replace(meta(100), format=1), token_types=True, label_kind="span")
    with pytest.raises(DatasetError, match=r"s\.arrow has format 1, this version of textsmooth reads 2; generate the dataset again"):
        ShardMeta.of(spans, "s.arrow")
    assert ShardMeta.of(spans.with_metadata(dataclasses.replace(meta(100), format=2).to_arrow()), "s.arrow").format == 2


def test_too_many_entries_for_arrow_lists_are_told() -> None:
    block = random_block(0, 1, longest=1)
    too_many = TokenBlock(
        row=block.row, row_offsets=np.array([0, 2**31]), input_ids=block.input_ids, token_type_ids=None, soft=block.soft, label=None
    )
    with pytest.raises(ValueError, match=r"2,147,483,648 tokens in one shard.*--rows-per-shard"):
        encode(too_many, schema_of(block), {})


def test_rounding_is_the_same_with_and_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is loaded it rounds to float16, and widens from it; else numpy does."""
    rng = np.random.default_rng(0)
    logprobs = np.concatenate(
        [-rng.exponential(3, 5000), -(2.0 ** rng.uniform(-26, 20, 5000)), [-np.inf, -0.0, -65504, -65519.9, -65520, -1e30]]
    )
    logprobs = logprobs.astype(np.float32)
    with_torch = plain_codec.to_float16(logprobs)
    wide = target_distribution._float32(with_torch)
    monkeypatch.delitem(sys.modules, "torch")
    assert plain_codec.to_float16(logprobs).tobytes() == with_torch.tobytes()
    assert target_distribution._float32(with_torch).tobytes() == wide.tobytes()
    assert np.isneginf(with_torch).sum() == 1 and wide.min(where=np.isfinite(wide), initial=0) == -65504
