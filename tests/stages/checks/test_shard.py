"""Shards that are not what they say are told, with row and token; a forged one never ends the process."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.manifest import Manifest, ShardEntry
from textsmooth.schemas.shard import METADATA_KEY, ShardMeta
from textsmooth.stages.checks.shard import Finding, Promised, check_shard
from textsmooth.stages.checks.soft_ids import Sums, partition_bounds, rounding_of
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.soft_ids.codec import TokenBlock, encode
from textsmooth.stages.soft_ids.shard import shard_bytes, shard_schema
from textsmooth.stages.soft_ids.statistics import UnitStats

ROWS = 300  # two record batches
PROMISED = Promised(unit="0", rows=np.arange(ROWS), template=(2, 3))
META = ShardMeta(
    codec="plain",
    topk=8,
    mass=0.98,
    temperatures=(0.5, 2.0),
    context="unmasked",
    vocab_size=60,
    teacher="t",
    tokenizer="k",
    vocab="v",
    split="train",
    unit="0",
)


@pytest.fixture(scope="module")
def manifest(smoothed: Path) -> Manifest:
    found = read_manifest(smoothed)
    teacher = {**found.teacher, "digest": "t", "tokenizer_digest": "k", "vocab_digest": "v"}
    return replace(found, teacher=teacher, corpus={**found.corpus, "keep_columns": [], "keep_types": []})


@pytest.fixture(scope="module")
def block(kit: ModuleType) -> TokenBlock:
    return kit.random_rows(1, ROWS).block


def shard(block: TokenBlock, meta: ShardMeta = META, **schema: Any) -> bytes:
    return bytes(shard_bytes(encode(block, shard_schema(meta, token_types=True, **{"label_kind": "class", **schema}), {})))


def entry(data: bytes, block: TokenBlock, **changes: Any) -> ShardEntry:
    sizes: dict[str, Any] = {"rows": ROWS, "tokens": len(block.input_ids), "entries": len(block.soft.ids), "bytes": len(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    return ShardEntry(**{"path": "train/00000.arrow", "split": "train", "sha256": sha256, **sizes, **changes})


def changed(block: TokenBlock, name: str, index: Any, value: Any) -> TokenBlock:
    """A copy with one number of a column, or of the soft ids, set."""
    here = hasattr(block, name)
    column = (getattr(block, name) if here else getattr(block.soft, name)).copy()
    column[index] = value
    return replace(block, **{name: column}) if here else replace(block, soft=replace(block.soft, **{name: column}))


def wrong_in(*shard: Any) -> list[Finding]:
    return list(check_shard(*shard).findings)


def found(block: TokenBlock, manifest: Manifest, promised: Promised = PROMISED, **changes: Any) -> list[Finding]:
    data = shard(block)
    return wrong_in(data, entry(data, block, **changes), manifest, promised)


def token(block: TokenBlock, row: int, number: int) -> int:
    return int(block.row_offsets[row]) + number


def test_a_good_shard_has_no_findings(block: TokenBlock, manifest: Manifest, tmp_path: Path) -> None:
    stats = UnitStats.of(block.soft, topk=8, rows=ROWS, unlabelled_rows=0).to_json()
    promised = replace(PROMISED, stats=json.loads(json.dumps(stats)))
    assert found(block, manifest, promised) == []
    data = shard(block)
    (tmp_path / "s.arrow").write_bytes(data)
    assert wrong_in(tmp_path / "s.arrow", entry(data, block), manifest, promised) == []
    looked = check_shard(data, entry(data, block), manifest)
    assert (looked.findings, looked.whole, looked.bytes) == ((), True, len(data))
    assert (looked.rows, looked.tokens, looked.entries) == (ROWS, len(block.input_ids), len(block.soft.ids))


def test_what_cannot_be_read_is_not_counted(block: TokenBlock, manifest: Manifest) -> None:
    data = shard(block)
    cut = check_shard(data[:-50], entry(data, block), manifest)
    assert (cut.whole, cut.rows, cut.tokens, cut.entries, cut.bytes) == (False, 0, 0, 0, 0) and cut.findings
    more = check_shard(data, entry(data, block, rows=ROWS + 1, tokens=9, sha256="0" * 64), manifest)
    assert (more.whole, more.rows, more.tokens, more.bytes) == (True, ROWS, len(block.input_ids), len(data))  # not as the manifest has it


def first(block: TokenBlock, row: int, number: int) -> int:
    """The first entry of a token."""
    return int(block.soft.offsets[token(block, row, number)])


# what is changed at row 270, token 1: column, value by the block, and what is said
WRONG: dict[str, tuple[Callable[[TokenBlock], TokenBlock], str]] = {
    "id outside": (lambda b: changed(b, "ids", first(b, 270, 1), 60), "has soft id 60 in a vocabulary of 60"),
    "id twice": (lambda b: changed(b, "ids", first(b, 270, 1), b.soft.ids[first(b, 270, 1) + 1]), r"has soft id \d+ twice"),
    "order": (lambda b: changed(b, "logprobs", first(b, 270, 1), -9.0), "has entry 1 more probable than entry 0: .* after -9"),
    "above 0": (lambda b: changed(b, "logprobs", first(b, 270, 1), 0.5), "has log-probability 0.5, which is no number of at most 0"),
    "nan": (lambda b: changed(b, "logprobs", first(b, 270, 1), np.nan), "has log-probability nan"),
    "mass": (lambda b: changed(b, "logprobs", first(b, 270, 1), 0.0), r"has entries and tail of 1\.\d+ in all; 1, within 0"),
    "tail": (lambda b: changed(b, "log_tail", token(b, 270, 1), -1.0), "has entries and tail of"),
    "tail nan": (lambda b: changed(b, "log_tail", token(b, 270, 1), np.nan), "has log_tail nan, not a number of at most 0"),
    "original": (lambda b: changed(b, "original_logprob", token(b, 270, 1), -9.0), "has original_logprob -9, and -.* for the same id"),
    "original above": (lambda b: changed(b, "input_ids", token(b, 270, 1), _absent(b, 270, 1)), "though it is not among the entries"),
    "partition": (lambda b: changed(b, "log_partition", (token(b, 270, 1), 1), 9.0), "has log_partition at temperature 2 of 9, "),
    "partition nan": (lambda b: changed(b, "log_partition", (token(b, 270, 1), 0), np.nan), "has log_partition at temperature 0.5 of nan"),
    "token id": (lambda b: changed(b, "input_ids", token(b, 270, 1), 60), "is token id 60 in a vocabulary of 60"),
}  # fmt: skip


def _absent(block: TokenBlock, row: int, number: int) -> int:
    """An id that is none of a token's entries, though the token is the most probable one."""
    n = token(block, row, number)
    there = block.soft.ids[block.soft.offsets[n] : block.soft.offsets[n + 1]]
    return next(i for i in range(5, 60) if i not in there)


@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_cannot_be_are_told_with_row_and_token(name: str, block: TokenBlock, manifest: Manifest) -> None:
    change, said = WRONG[name]
    wrong = found(change(block), manifest, replace(PROMISED, stats=None))

    assert any(re.search(said, f.what) and (f.row, f.token, f.more) == (270, 1, 0) for f in wrong), wrong
    assert not any(f.altered for f in wrong)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("log_tail", -3.0, "has no entries, but log_tail -3, not -inf"),
        ("original_logprob", -1.0, "has no entries, but original_logprob -1, not 0"),
        ("log_partition", 1.0, "has no entries, but log_partition"),
        ("input_ids", 7, "is left plain: token id 7, not the special 2"),
    ],
)
def test_plain_tokens_stand_for_certainty(column: str, value: Any, said: str, block: TokenBlock, manifest: Manifest) -> None:
    (wrong,) = found(changed(block, column, token(block, 5, 0), value), manifest)
    assert said in wrong.what and (wrong.row, wrong.token) == (5, 0)


def test_one_kind_is_one_line(block: TokenBlock, manifest: Manifest) -> None:
    label = block.label.copy()
    label[[3, 4, 280]] = (2, -2, 7)
    (wrong,) = found(replace(block, label=label), manifest)
    assert (wrong.row, wrong.token, wrong.more) == (3, None, 2)
    assert str(wrong) == "train/00000.arrow, row 3: has label 2, -1 to 1 is promised (and 2 more rows like it)"


@pytest.mark.parametrize(
    ("rows", "promised", "said"),
    [
        ([*range(298), 299, 298], None, "row 298: comes after row 299"),
        ([*range(299), 298], None, "row 298: is there twice"),
        (range(ROWS), np.arange(1, ROWS + 1), "row 0: is not a row that the plan has for this shard"),
        (range(ROWS), np.arange(ROWS + 1), "row 300: is missing"),
        (range(1, ROWS + 1), np.arange(ROWS), "row 0: is missing"),
    ],
)
def test_rows_are_those_of_the_plan_in_order(rows: Any, promised: Any, said: str, block: TokenBlock, manifest: Manifest) -> None:
    other = replace(block, row=np.array([*rows]))
    wrong = found(other, manifest, replace(PROMISED, rows=promised))
    assert f"train/00000.arrow, {said}" in [str(f).partition(" (and")[0] for f in wrong]
    shifted = found(other, manifest, replace(PROMISED, rows=promised), row_offset=1000)  # of a merged dataset
    assert [f.row for f in shifted] == [f.row + 1000 for f in wrong]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 301}, "has 300 rows, the manifest says 301"),
        ({"tokens": 5}, "tokens, the manifest says 5"),
        ({"entries": 5}, "entries, the manifest says 5"),
        ({"bytes": 5}, "bytes, the manifest says 5"),
        ({"sha256": "0" * 64}, "was altered, its sha256 is not the manifest's"),
    ],
)
def test_counts_are_the_manifests(changes: dict[str, Any], said: str, block: TokenBlock, manifest: Manifest) -> None:
    (wrong,) = found(block, manifest, **changes)
    assert said in wrong.what
    assert wrong.altered == ("sha256" in changes or "bytes" in changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("smoothed", 1), ("tokens", 1), ("unlabelled_rows", 1), ("original", 9.0), ("mass_by_rank", [1.0]), ("original_bins", [1] * 100)],
)
def test_receipts_count_what_is_there(name: str, value: Any, block: TokenBlock, manifest: Manifest) -> None:
    stats = UnitStats.of(block.soft, topk=8, rows=ROWS).to_json()
    (wrong,) = found(block, manifest, replace(PROMISED, stats={**stats, name: value}))
    assert "receipt" in wrong.what


def test_the_schema_is_what_the_manifest_promises(block: TokenBlock, manifest: Manifest) -> None:
    values = shard(replace(block, label=block.label.astype(np.float64)), label_kind="value")
    cases = [
        (shard(block, replace(META, topk=4, teacher="other")), ["topk 4 in its metadata, the manifest 8", "teacher 'other'"]),
        (shard(block, replace(META, unit="1")), ["says unit '1'"]),
        (values, ["column label: double where the manifest promises label: int64"]),
        (shard(block, replace(META, vocab_size=70_000)), ["column input_ids: list<item: uint32>"]),
    ]
    for data, said in cases:
        wrong = wrong_in(data, entry(data, block), manifest, PROMISED)
        assert len(wrong) >= len(said) and all(any(text in f.what for f in wrong) for text in said), wrong
    other = pa.ipc.open_file(shard(block)).read_all().replace_schema_metadata({METADATA_KEY: b"{}"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    (wrong_,) = wrong_in(sink.getvalue().to_pybytes(), entry(b"", block, bytes=1), manifest)[1:]
    assert "not to be trusted" in wrong_.what


def test_record_batches_have_the_promised_rows(block: TokenBlock, manifest: Manifest) -> None:
    table = pa.ipc.open_file(shard(block)).read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, 100)
    data = sink.getvalue().to_pybytes()
    (wrong,) = wrong_in(data, entry(data, block), manifest, PROMISED)
    assert "has record batches of 100, 100, 56, 44 rows, 256 and a rest are promised" in wrong.what


@pytest.mark.parametrize("column", ["input_ids", "soft_ids", "log_tail"])
@pytest.mark.parametrize("by", [-100_000, 100_000])
def test_forged_offsets_are_told_and_not_followed(column: str, by: int, block: TokenBlock, manifest: Manifest) -> None:
    data = shard(block)
    whole = pa.ipc.open_file(data).get_batch(0).column(column).offsets.to_numpy()
    forged = whole.copy()
    forged[17] += by
    assert data.count(whole.tobytes()) > 1  # every list of tokens has them
    where = data.index(whole.tobytes())
    other = data[:where] + forged.tobytes() + data[where + whole.nbytes :]
    wrong = wrong_in(other, entry(other, block), manifest, PROMISED)
    assert wrong and any("lists that overlap or point outside" in f.what and f.row in (16, 17) for f in wrong), wrong


def test_lists_of_other_lengths_are_told(block: TokenBlock, manifest: Manifest) -> None:
    table = pa.ipc.open_file(shard(block)).read_all().to_batches()[0]
    for name, said in (("log_tail", "values in log_tail for"), ("soft_logprobs", "soft_ids and")):
        lists = table.column(name).to_pylist()
        if name == "log_tail":
            lists[9] = lists[9][:-1]
        else:
            lists[9][1] = lists[9][1][:-1]
        batch = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(lists, table.column(name).type))
        data = bytes(shard_bytes(batch))
        wrong = wrong_in(data, entry(data, block, rows=256), manifest)
        assert [(f.row, f.token) for f in wrong if said in f.what] == [(9, None if name == "log_tail" else 1)], wrong


def test_nulls_are_told(block: TokenBlock, manifest: Manifest) -> None:
    table = pa.ipc.open_file(shard(block)).read_all().to_batches()[0]
    lists = table.column("log_tail").to_pylist()
    lists[3][0] = None
    place = table.schema.get_field_index("log_tail")
    data = bytes(shard_bytes(table.set_column(place, table.schema.field(place), pa.array(lists, table.schema.field(place).type))))
    assert any("has null in column log_tail" in f.what for f in wrong_in(data, entry(data, block, rows=256), manifest))


@given(data=st.data())
def test_no_damage_raises(data: Any, kit: ModuleType, manifest: Manifest) -> None:
    """Bytes overwritten anywhere, the shard cut anywhere: findings, whatever the digest says; never an error."""
    small = kit.random_rows(4, 6).block
    whole = shard(small)
    bad = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(bad) - 1))
        part = data.draw(st.binary(min_size=1, max_size=8))
        bad[at : at + len(part)] = part
    cut = bytes(bad[: data.draw(st.sampled_from([len(bad), len(bad), len(bad) // 2, 9, 0]))])
    told = wrong_in(cut, entry(cut, small, rows=6), manifest, replace(PROMISED, rows=np.arange(6)))
    assert all("\n" not in str(f) for f in told)
    if cut != whole:
        assert wrong_in(cut, entry(whole, small, rows=6), manifest)[0].altered


@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.01, 0.3, 0.5, 1.5, 2.0, 30.0]), scale=st.sampled_from([0.01, 1.0, 20.0]))
def test_partition_bounds_hold_the_truth(seed: int, temperature: float, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, (20, 50))
    logprobs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    top = -np.sort(-logprobs, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.exp(top[:, 8:]).sum(1)).astype(np.float32).astype(np.float16)
    low, high = partition_bounds(top[:, :8].astype(np.float16), tail, np.full(20, 42), temperature, rounding_of("plain"))
    scaled = logprobs / temperature
    truth = scaled.max(1) + np.log(np.exp(scaled - scaled.max(1, keepdims=True)).sum(1))
    assert (low <= truth).all() and (truth <= high).all()


def test_sums_over_long_rows_are_exact() -> None:
    """In float32, what is above 65,536 grows by 1 where 0.998 is added."""
    sums, tokens = Sums(rounding=rounding_of("plain")), 256 * 512
    sums.add(np.full((tokens, 2), (0.998, 0.001), np.float32), np.zeros(tokens, np.uint16))
    np.testing.assert_allclose(sums.mass_by_rank, (0.998 * tokens, 0.001 * tokens), rtol=3e-5)
    assert sums.original[0] == tokens
