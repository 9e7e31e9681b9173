"""Plans and receipts survive JSON; altered, newer or foreign ones are refused; digests are what they always were."""

import copy
import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_json import changed, leaves, through_json
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.schemas.canonical import canonical_json, digest, file_sha256
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.plan import CorpusIdentity, Plan, TaskTeacherIdentity, TeacherIdentity, Unit, unit_ids
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.storage.atomic import pretty_json

# surrogates are no text: the corpus reader refuses them
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
splits = st.from_regex(r"[a-z]\w{0,5}(\.\w{1,4})?", fullmatch=True)
corpora = st.builds(
    CorpusIdentity,
    name=texts,
    files=st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3),
    text_columns=st.lists(texts, min_size=1, max_size=2).map(tuple),
    label_column=st.none() | texts,
    label_kind=st.sampled_from([None, "class", "value"]),
    label_names=st.none() | st.lists(texts, max_size=3).map(tuple),
    keep_columns=st.just(("a", "b")),
    keep_types=st.just(("int64", "string")),
    limit=st.none() | st.integers(1, 10**9),
    license=st.none() | texts,
)
teachers = st.builds(
    TeacherIdentity,
    name=texts, digest=hexes, tokenizer_digest=hexes, vocab_digest=hexes,
    vocab_size=st.integers(1, 10**6), model_type=texts, license=st.none() | texts,
)  # fmt: skip
units = st.builds(
    Unit,
    split=splits, number=st.integers(0, 10**6), file=texts, start=st.integers(0, 10**9), stop=st.integers(0, 10**9),
    row=st.integers(0, 10**9), offset=st.none() | st.integers(0, 2**50), rows_sha256=hexes, id=hexes,
)  # fmt: skip
plans = st.builds(
    Plan,
    corpus=corpora,
    teacher=teachers,
    config=st.builds(GenerationConfig, topk=st.integers(1, 999), temperatures=st.lists(st.floats(0.1, 9), max_size=3).map(tuple)),
    versions=st.dictionaries(texts, texts, max_size=3),
    units=st.lists(units, max_size=4).map(tuple),
    runtime=st.dictionaries(texts, st.integers(0, 99), max_size=2),
    source=st.dictionaries(texts, st.lists(st.integers(0, 2**62), min_size=2, max_size=2), max_size=2),
)
receipts = st.builds(
    Receipt,
    unit=hexes, split=texts, number=st.integers(0, 9), shard=texts, sha256=hexes, bytes=st.integers(0, 2**50), rows=st.integers(0, 9),
    tokens=st.integers(0, 9), entries=st.integers(0, 9), stats=st.dictionaries(texts, json_values, max_size=3),
    versions=st.dictionaries(texts, texts, max_size=2), device=texts, timings=st.dictionaries(texts, st.floats(0, 1e9), max_size=3),
)  # fmt: skip


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    again = Plan.from_json(through_json(plan.to_json()))
    assert again == plan
    assert again.digest == plan.digest
    assert again.to_json() == plan.to_json()


@given(receipts)
def test_a_receipt_survives_json(receipt: Receipt) -> None:
    assert Receipt.from_json(through_json(receipt.to_json())) == receipt


@pytest.mark.parametrize("value", [{}, [], None, {"unit": "x"}, 3])
def test_a_receipt_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(DatasetError, match="receipt is damaged"):
        Receipt.from_json(value)


@pytest.mark.parametrize(
    "changes",
    [{"bytes": -1}, {"rows": "3"}, {"sha256": "x"}, {"stats": []}, {"timings": {"a": "b"}}, {"skipped": [{"row": 1}]}, {"more": 1}],
    ids=str,
)
def test_a_receipt_with_a_value_that_it_cannot_have_is_refused(changes: dict[str, Any]) -> None:
    whole = {
        "unit": "u", "split": "train", "number": 0, "shard": "train/0.arrow", "sha256": "0" * 64, "bytes": 1, "rows": 1, "tokens": 3,
        "entries": 3, "stats": {}, "versions": {}, "device": "cpu", "timings": {},
    }  # fmt: skip
    assert Receipt.from_json(whole).rows == 1
    with pytest.raises(DatasetError, match=f"a receipt is damaged: .*{next(iter(changes))}"):
        Receipt.from_json(whole | changes)


@pytest.fixture
def plan() -> Plan:
    corpus = CorpusIdentity(
        name="c", files={"train": ["a.jsonl"]}, text_columns=("text",), label_column="label", label_kind="class",
        label_names=("no", "yes"), keep_columns=("idx",), keep_types=("int64",), limit=None, license="mit",
    )  # fmt: skip
    teacher = TeacherIdentity(
        name="t", digest="a" * 64, tokenizer_digest="b" * 64, vocab_digest="c" * 64, vocab_size=100, model_type="bert"
    )
    config = GenerationConfig(topk=4, temperatures=(0.5, 1.0))
    shared = {"teacher": teacher, "corpus": corpus, "config": config}
    found = tuple(
        Unit(
            split="train", number=n, file="a.jsonl", start=5 * n, stop=5 * n + 5, row=5 * n, offset=100 * n, rows_sha256=f"{n:064x}",
            id=unit_ids(**shared)("train", 5 * n, f"{n:064x}"),
        )
        for n in range(2)
    )  # fmt: skip
    return Plan(
        corpus=corpus,
        teacher=teacher,
        config=config,
        versions={"torch": "1"},
        units=found,
        runtime={"threads": 2},
        source={"a.jsonl": [1, 2]},
    )


def test_a_plan_altered_anywhere_is_refused(plan: Plan) -> None:
    value = through_json(plan.to_json())
    assert len(leaves(value)) > 40
    for path in leaves(value):
        with pytest.raises(DatasetError, match=r"plan\.json"):
            Plan.from_json(changed(value, path))
    for name in value:
        with pytest.raises(DatasetError, match=r"plan\.json"):
            Plan.from_json({k: v for k, v in value.items() if k != name})


@pytest.mark.parametrize("value", [None, [], 3, "plan", {}])
def test_what_is_no_plan_is_refused(value: Any) -> None:
    with pytest.raises(DatasetError, match="not the plan of a run"):
        Plan.from_json(value)


def test_a_plan_of_a_newer_format_is_refused(plan: Plan) -> None:
    with pytest.raises(DatasetError, match="has format 2, this version of textsmooth reads 1"):
        Plan.from_json({**plan.to_json(), "format": 2})


def test_runtime_and_source_do_not_change_what_a_plan_is(plan: Plan) -> None:
    assert dataclasses.replace(plan, runtime={"threads": 64}, source={}).digest == plan.digest
    assert dataclasses.replace(plan, versions={"torch": "2"}).digest != plan.digest
    assert dataclasses.replace(plan, units=plan.units[::-1]).digest != plan.digest


UNIT: dict[str, Any] = {"split": "train", "row": 0, "rows_sha256": "0" * 64}
CHANGES: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "split": lambda p: {"split": "test"},
    "row": lambda p: {"row": 1},
    "rows": lambda p: {"rows_sha256": "1" * 64},
    "teacher": lambda p: {"teacher": dataclasses.replace(p.teacher, digest="d" * 64)},
    "tokenizer": lambda p: {"teacher": dataclasses.replace(p.teacher, tokenizer_digest="d" * 64)},
    "text column": lambda p: {"corpus": dataclasses.replace(p.corpus, text_columns=("text", "text2"))},
    "label names": lambda p: {"corpus": dataclasses.replace(p.corpus, label_names=("yes", "no"))},
    "kept": lambda p: {"corpus": dataclasses.replace(p.corpus, keep_columns=("id",))},
    "topk": lambda p: {"config": dataclasses.replace(p.config, topk=5)},
    "dtype": lambda p: {"config": dataclasses.replace(p.config, dtype="bfloat16")},
    "batch": lambda p: {"config": dataclasses.replace(p.config, max_batch_tokens=1)},
}
SAME: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "teacher's name": lambda p: {"teacher": dataclasses.replace(p.teacher, name="other")},
    "corpus's name and files": lambda p: {"corpus": dataclasses.replace(p.corpus, name="other", files={"train": ["b.txt"]}, limit=5)},
    "rows per shard": lambda p: {"config": dataclasses.replace(p.config, rows_per_shard=7)},
}


def test_a_unit_id_stands_for_all_that_decides_its_shard(plan: Plan) -> None:
    def made(change: Callable[[Plan], dict[str, Any]]) -> str:
        values = {**UNIT, "teacher": plan.teacher, "corpus": plan.corpus, "config": plan.config, **change(plan)}
        own = [values.pop(name) for name in ("split", "row", "rows_sha256")]
        return unit_ids(**values)(*own)

    here = made(lambda p: {})
    ids = {name: made(change) for name, change in CHANGES.items()}
    assert len({here, *ids.values()}) == 1 + len(ids)
    assert {made(change) for change in SAME.values()} == {here}


def test_digests_are_what_they_always_were(plan: Plan) -> None:
    """Golden: a change here makes every unit of every dataset in the world a stranger. Raise FORMAT_VERSION when that is meant."""
    assert plan.units[0].id == "1477c4c65ddebd796f9f68440fac78c2"
    assert plan.digest == "dd805c68a3586b27d02348bd50654b85358323091ad47b08969e016997ee2725"
    value = {"b": [1, 2.5, None, True, "é\n🎉"], "a": {"z": -0.0, "y": 1e-07}}
    assert canonical_json(value) == '{"a":{"y":1e-07,"z":-0.0},"b":[1,2.5,null,true,"é\\n🎉"]}'
    assert digest(value) == hashlib.sha256('{"a":{"y":1e-07,"z":-0.0},"b":[1,2.5,null,true,"é\\n🎉"]}'.encode()).hexdigest()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@given(splits, st.integers(0, 10**12), hexes, corpora, teachers, st.booleans())
def test_ids_of_many_units_are_digests_of_one_object_each(
    split: str, row: int, rows: str, corpus: CorpusIdentity, teacher: TeacherIdentity, task: bool
) -> None:
    """unit_ids puts what is shared together once; this is what an id is."""
    config = GenerationConfig(topk=7, mass=0.9)
    second = (
        TaskTeacherIdentity(name="é", digest="d" * 64, tokenizer_digest="e" * 64, kind="class", width=2, max_length=9) if task else None
    )
    whole = {
        "format": 1,
        "split": split,
        "row": row,
        "rows": rows,
        "teacher": teacher.digest,
        "tokenizer": teacher.tokenizer_digest,
        "columns": corpus.columns_json(),
        "config": {k: v for k, v in config.to_json().items() if k != "rows_per_shard"},
        **({"task_teacher": second.decides_json()} if second else {}),
    }
    assert unit_ids(teacher=teacher, corpus=corpus, config=config, task_teacher=second)(split, row, rows) == digest(whole)[:32]


def test_units_lie_in_plan_json_as_columns_of_stretches(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a million of them fit: what they share is written once, and a stretch is hashed at a time."""
    monkeypatch.setattr("textsmooth.schemas.plan.STRETCH", 2)
    units = tuple(dataclasses.replace(plan.units[0], number=n, file="ab"[n // 3] + ".txt") for n in range(6))
    many = dataclasses.replace(plan, units=units)
    value = many.to_json()
    assert [(part["file"], part["number"]) for part in value["units"]] == [
        ("a.txt", [0, 1]),
        ("a.txt", [2]),
        ("b.txt", [3, 4]),
        ("b.txt", [5]),
    ]
    assert Plan.from_json(through_json(value)) == many
    cut_short = copy.deepcopy(value)
    cut_short["units"][0]["id"].pop()
    with pytest.raises(DatasetError, match="damaged"):
        Plan.from_json(cut_short)


def test_a_unit_is_small_and_can_be_sent(plan: Plan) -> None:
    unit = plan.units[0]
    assert not hasattr(unit, "__dict__")
    assert pickle.loads(pickle.dumps(unit)) == unit  # noqa: S301 (as Ray sends it)


@given(plans)
def test_pretty_json_is_json_with_a_line_for_each_key_and_each_object_of_a_list(plan: Plan) -> None:
    value = {**plan.to_json(), "none": [], "numbers": [1, 2], "mixed": [{}, 1]}
    written = pretty_json(value)
    assert json.loads(written) == through_json(value)
    assert len(written.split(b"\n")) == 3 + len(value) + sum(len(value[k]) + 1 for k in ("units", "mixed") if value[k])
    assert pretty_json({}) == b"{}\n"
    with pytest.raises(ValueError, match="JSON compliant"):
        pretty_json({"a": float("nan")})


@given(st.dictionaries(texts, json_values, max_size=5))
def test_canonical_json_does_not_depend_on_order(value: dict[str, Any]) -> None:
    assert canonical_json(dict(reversed(list(value.items())))) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json([float("nan")])


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 10**6)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 10**6).hexdigest()
