"""Datasets whose digests fit and that are wrong all the same: told by their records, their numbers, or their teacher."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers_gen import files_of
from helpers_verify import remade, said

from textsmooth.pipeline.inspect.rows import SmoothedRows
from textsmooth.pipeline.inspect.stats import figures
from textsmooth.pipeline.share.diff import diff
from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.soft_ids.shard import shard_bytes
from textsmooth.stages.storage.atomic import pretty_json

BAD = {"split": "train", "row": "x", "file": "f", "file_row": 0, "error": "e"}


def test_records_that_do_not_agree_are_told_though_their_digests_fit(dataset: Path) -> None:
    """A forger writes every digest anew."""
    whole = files_of(dataset)
    receipts = [json.loads(line) for line in whole["receipts.jsonl"].splitlines()]

    def lines(values: list[Any]) -> bytes:
        return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()

    stats = {**receipts[0]["stats"], "smoothed": 3}
    plan = json.loads(whole["plan.json"])
    tokenizer = json.loads(whole["tokenizer/tokenizer.json"])
    tokenizer["model"]["vocab"]["cat"], tokenizer["model"]["vocab"]["dog"] = 51, 50
    cases: list[tuple[str, bytes, str]] = [
        ("receipts.jsonl", lines(receipts[1:]), "where unit train/00000 is expected"),
        ("receipts.jsonl", lines(receipts[:-1]), "4 receipts, the plan has 5 units"),
        ("receipts.jsonl", lines([{**receipts[0], "tokens": 1}, *receipts[1:]]), "has tokens 1 for train/00000-"),
        ("receipts.jsonl", lines([{**receipts[0], "stats": stats}, *receipts[1:]]), "has smoothed"),
        ("receipts.jsonl", lines([{**receipts[0], "stats": stats}, *receipts[1:]]), "has smoothed_tokens in its statistics"),
        ("receipts.jsonl", b"[]\n", "cannot be read"),
        (
            "receipts.jsonl",
            lines([{**receipts[0], "rows": [7]}, *receipts[1:]]),
            "receipts.jsonl: cannot be read: a receipt is damaged: rows is [7]",
        ),
        ("receipts.jsonl", lines([{**receipts[0], "skipped": [BAD]}, *receipts[1:]]), "a receipt is damaged: skipped[0].row is 'x'"),
        ("plan.json", pretty_json({**plan, "runtime": {"threads": 3}}), "plan.json was altered"),
        ("README.md", b"---\n---\n# mine\n", "does not fit the manifest"),
        ("tokenizer/tokenizer.json", json.dumps(tokenizer).encode(), "maps tokens to other ids"),
        ("tokenizer/tokenizer.json", b"{}", "cannot be read"),
    ]
    for name, data, told in cases:
        (dataset / name).write_bytes(data)
        remade(dataset)
        found = said(verify(dataset))
        assert any(told in line for line in found), (name, told, found)
        assert all("\n" not in line for line in found)
        for path, before in whole.items():
            (dataset / path).write_bytes(before)
    manifest = read_manifest(dataset)
    remade(dataset, shards=manifest.shards[:-1], statistics=manifest.statistics)
    text = "\n".join(said(verify(dataset)))
    assert "lists 4 shards, the plan has 5 units" in text and "would read it; remove it" in text
    (dataset / "manifest.json").write_bytes(whole["manifest.json"])
    remade(dataset, config={**manifest.config, "topk": 5})
    text = "\n".join(said(verify(dataset)))
    assert "plan.json: has a different config than the manifest" in text and "says topk 6 in its metadata, the manifest 5" in text
    (dataset / "manifest.json").write_bytes(whole["manifest.json"])
    remade(dataset, corpus={"name": "x"})
    (told,) = said(verify(dataset))
    assert told.startswith("manifest.json: is damaged (corpus has no files); fetch the dataset again")


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("context", lambda text: text[::-1], "has an answer that does not stand at its place in the context"),
        ("context_start", lambda _: -1, "has a context that begins at character -1"),
        ("answers", lambda one: {**one, "answer_start": [-1 for _ in one["text"]]}, "does not stand at its place in the context"),
        ("answers", lambda one: {**one, "answer_start": []}, "has 1 answers and 0 starts"),
        ("offsets", lambda pairs: [[0, 10_000] for _ in pairs], "stands for characters 0 to 10000 of a context of "),
        ("end_positions", lambda _: 10_000, "has an answer from token "),
    ],
)
def test_answers_and_contexts_that_do_not_fit(column: str, change: Callable[[Any], Any], message: str, kinds: Any, tmp_path: Path) -> None:
    spans = tmp_path / "spans"
    shutil.copytree(kinds["span"][0], spans)
    assert verify(spans).ok
    shard = spans / read_manifest(spans).shards[0].path
    batch = pa.ipc.open_file(shard.read_bytes()).get_batch(0)
    field = batch.schema.field(column)
    values = pa.array([change(value) for value in batch.column(column).to_pylist()], field.type)
    shard.write_bytes(shard_bytes(batch.set_column(batch.schema.get_field_index(column), field, values)))
    remade(spans)
    assert any(message in line for line in said(verify(spans)))


def test_checksums_alone_find_what_was_altered_and_not_what_was_forged(dataset: Path) -> None:
    shard = dataset / read_manifest(dataset).shards[0].path
    before = shard.read_bytes()
    shard.write_bytes(before[:200] + bytes([before[200] ^ 1]) + before[201:])
    found = verify(dataset, checksums=True)
    assert said(found) == [f"{shard.relative_to(dataset)}: was altered, its sha256 is not the manifest's"]
    shard.write_bytes(before)
    whole, compared = verify(dataset), verify(dataset, checksums=True)
    assert compared.ok and compared.shards == whole.shards and compared.bytes == whole.bytes and compared.to_json()["checksums"]
    assert (compared.rows, compared.tokens, compared.entries) == (0, 0, 0)
    assert f"{whole.shards} shards by their bytes, contents not checked; " in compared.summary()
    remade(dataset, config={**read_manifest(dataset).config, "topk": 5})
    assert any("says topk 6 in its metadata" in line for line in said(verify(dataset)))
    assert not any("says topk 6 in its metadata" in line for line in said(verify(dataset, checksums=True)))


WRONG = [None, -1, 1, 10**30, 1.5, 1e308, "", "x", "\x1b[31m", "a\0b", [], {}, [1], {"a": 1}, True, "é", "../x"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where any value of a JSON value stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def test_a_manifest_with_any_value_exchanged_is_read_or_refused_in_one_line(dataset: Path, kinds: dict[str, Any], tmp_path: Path) -> None:
    """With digests that fit, as a forger makes them: nothing but one of our errors comes of it, and nothing that steers a terminal."""
    rng, whole = random.Random(1), json.loads((dataset / "manifest.json").read_bytes())
    spots = [
        path for path in places(whole) if path and path[0] not in ("digest", "dataset") and path[:2] != ("statistics", "p_original_bins")
    ]
    readers: list[Callable[[], object]] = [
        lambda: figures(dataset).to_json(),
        lambda: SmoothedRows(dataset).row(0),
        lambda: diff(dataset, kinds["pair"][0], rows=0).summary(),
        lambda: pull(str(dataset), str(tmp_path / "part"), shards="1", overwrite=True),
    ]
    read = 0
    for _ in range(150):
        value = json.loads(json.dumps(whole))
        *way, last = rng.choice(spots)
        place = value
        for step in way:
            place = place[step]
        place[last] = rng.choice(WRONG)
        with suppress(KeyError, TypeError):
            listed = [[shard[name] for name in ("path", "split", "rows", "tokens", "entries", "sha256")] for shard in value["shards"]]
            value["dataset"] = digest({"plan": value["plan"], "shards": listed})
        value["digest"] = digest({name: inner for name, inner in value.items() if name != "digest"})
        (dataset / "manifest.json").write_bytes(pretty_json(value))
        try:
            assert all(line.isprintable() for line in verify(dataset, workers=1).summary().splitlines())
            Manifest.from_json(value, "m")
        except DatasetError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        for reader in readers:
            with suppress(DatasetError, UsageError):
                reader()
    assert 5 < read < 75
