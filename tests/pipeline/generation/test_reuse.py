"""A corpus that grew: unchanged shards are taken over, the rest runs, and the result is what a run from nothing gives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import REPOSITORY, Process, Ran, files_of, rows, shards_of, until, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.pipeline.commit import finished
from textsmooth.pipeline.generation import reuse as previously
from textsmooth.pipeline.generation import run as generation
from textsmooth.pipeline.generation.dry_run import preview
from textsmooth.pipeline.generation.reuse import KINDS, changes
from textsmooth.pipeline.generation.run import Generated, generate
from textsmooth.schemas.config import GenerateOptions, GenerationConfig
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.plan import CorpusIdentity, Plan, TeacherIdentity, Unit
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.storage.folder import Folder

SIZES = ("--rows-per-shard", 8, "--topk", 3)
ROWS = rows(60, 21)
# units of 8 rows; a: 8, 8, 4; b: 8, 2
FILES = {"a": ROWS[:20], "b": ROWS[20:30]}
GROWN = {**FILES, "b": ROWS[20:36], "c": ROWS[36:41]}  # b: 8, 8; c: 5


def corpus_at(folder: Path, files: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True)
    for name, lines in files.items():
        write_jsonl(folder / f"{name}.jsonl", lines)
    return folder / "*.jsonl"


@pytest.fixture(scope="module")
def make(teacher: Path) -> Callable[..., Generated]:
    """A run in this process, with the tiny teacher."""

    def run(corpus: Path, out: Path, previous: Path | str | None = None, **more: Any) -> Generated:
        shared = {"teacher": str(teacher), "threads": 1, "dtype": "float32", "rows_per_shard": 8, "topk": 3}
        named = {"corpus": str(corpus), "out": str(out), "from_previous": None if previous is None else str(previous)}
        return generate(GenerateOptions(**{**shared, **named, **more}))

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Generated]) -> Path:
    """corpus, its dataset `old`; the grown corpus, and `fresh`: its dataset, made from nothing. Not to be changed."""
    folder = tmp_path_factory.mktemp("growing")
    make(corpus_at(folder / "corpus", FILES), folder / "old")
    make(corpus_at(folder / "grown", GROWN), folder / "fresh")
    return folder


def equal(out: Path, fresh: Path) -> None:
    """The same shards, the same dataset; and no file but those that the manifest lists."""
    manifest, wanted = read_manifest(out), read_manifest(fresh)
    assert shards_of(out) == shards_of(fresh)
    assert (manifest.dataset, manifest.plan) == (wanted.dataset, wanted.plan)
    assert manifest.statistics == wanted.statistics
    listed = {"manifest.json", *(entry.path for entry in (*manifest.shards, *manifest.files))}
    assert set(files_of(out)) - {"run.json"} == listed


def receipts_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "receipts.jsonl").read_text().splitlines()]


def became(out: Path, split: str = "train") -> dict[str, tuple[int, int, int]]:
    """kind -> units, rows, rows_before, of those that there are."""
    entry = read_manifest(out).predecessor
    assert entry is not None
    assert tuple(entry["splits"][split]) == KINDS
    return {kind: (c["units"], c["rows"], c["rows_before"]) for kind, c in entry["splits"][split].items() if c["units"]}


def counts(out: Path) -> tuple[dict[str, int], dict[str, int]]:
    entry = read_manifest(out).predecessor
    assert entry is not None
    return entry["taken_over"], entry["run"]


# --- what comes out ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_only_what_is_new_runs_and_the_bytes_are_those_of_a_run_from_nothing(
    links: bool, place: Path, make: Callable[..., Generated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(finished, "link", lambda *args, **named: None)
    before = files_of(place / "old")
    made = make(place / "grown/*.jsonl", tmp_path / "new", place / "old")
    assert (made.units, made.taken, made.not_taken) == (2, 4, ())
    equal(tmp_path / "new", place / "fresh")
    assert files_of(place / "old") == before
    old = {path.name: path.stat().st_ino for path in (place / "old/train").iterdir()}
    new = {path.name: path.stat().st_ino for path in (tmp_path / "new/train").iterdir()}
    taken = old.keys() & new.keys()
    assert len(taken) == 4
    assert all((old[name] == new[name]) == links for name in taken)

    assert counts(tmp_path / "new") == ({"units": 4, "rows": 28}, {"units": 2, "rows": 13})
    assert became(tmp_path / "new") == {"unchanged": (4, 28, 28), "grown": (1, 8, 2), "new": (1, 5, 0)}
    manifest = read_manifest(tmp_path / "new")
    assert manifest.predecessor is not None and manifest.predecessor["dataset"] == read_manifest(place / "old").dataset
    assert f"dataset `{manifest.predecessor['dataset']}` of \\*.jsonl: 4 of 6 shards taken over" in (tmp_path / "new/README.md").read_text()


def test_receipts_are_those_of_the_run_that_made_the_shard(place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    make(place / "grown/*.jsonl", tmp_path / "new", place / "old")
    old, new = (receipts_of(at) for at in (place / "old", tmp_path / "new"))
    dataset = read_manifest(place / "old").dataset
    assert [receipt.pop("taken_from", None) for receipt in new] == [dataset] * 4 + [None] * 2
    assert new[:4] == old[:4]


def test_a_dataset_that_was_not_grown_says_nothing_of_a_predecessor(place: Path) -> None:
    for name in ("manifest.json", "plan.json", "receipts.jsonl", "README.md"):
        text = (place / "fresh" / name).read_text()
        assert "predecessor" not in text and "taken_from" not in text, name


def test_a_chain_is_no_different(place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    make(place / "grown/*.jsonl", tmp_path / "second", place / "old")
    third = {**GROWN, "d": ROWS[41:60]}
    made = make(corpus_at(tmp_path / "third", third), tmp_path / "new", tmp_path / "second")
    assert (made.units, made.taken) == (3, 6)
    make(tmp_path / "third/*.jsonl", tmp_path / "fresh")
    equal(tmp_path / "new", tmp_path / "fresh")
    shutil.rmtree(tmp_path / "second")  # its shards are names of the same files
    equal(tmp_path / "new", tmp_path / "fresh")
    assert counts(tmp_path / "new")[0] == {"units": 6, "rows": 41}
    assert len({receipt.get("taken_from") for receipt in receipts_of(tmp_path / "new")}) == 2


def test_a_corpus_that_stayed_as_it_was_needs_no_teacher(
    place: Path, make: Callable[..., Generated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **named: object) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr("textsmooth.pipeline.units.worker.UnitWorker", never)
    made = make(place / "corpus/*.jsonl", tmp_path / "new", place / "old")
    assert (made.units, made.taken) == (0, 5)
    equal(tmp_path / "new", place / "old")


def test_a_unit_with_another_number_is_taken_over_under_it(make: Callable[..., Generated], tmp_path: Path) -> None:
    """Two short files before it make another count of units before it, of as many rows."""
    make(corpus_at(tmp_path / "one", {"a": ROWS[:8], "z": ROWS[8:16]}), tmp_path / "old")
    made = make(corpus_at(tmp_path / "two", {"a": ROWS[:3], "b": ROWS[3:8], "z": ROWS[8:16]}), tmp_path / "new", tmp_path / "old")
    assert (made.units, made.taken) == (2, 1)
    assert [receipt["number"] for receipt in receipts_of(tmp_path / "new")] == [0, 1, 2]
    make(tmp_path / "two/*.jsonl", tmp_path / "fresh")
    equal(tmp_path / "new", tmp_path / "fresh")


def test_a_dataset_whose_shards_are_links_to_elsewhere(place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    """Like a snapshot in the cache of the Hub."""
    shutil.copytree(place / "old", tmp_path / "old")
    (tmp_path / "blobs").mkdir()
    for shard in (tmp_path / "old/train").iterdir():
        shard.rename(tmp_path / "blobs" / shard.name)
        shard.symlink_to(f"../../blobs/{shard.name}")
    made = make(place / "grown/*.jsonl", tmp_path / "new", tmp_path / "old")
    assert made.taken == 4
    assert not any(shard.is_symlink() for shard in (tmp_path / "new/train").iterdir())
    equal(tmp_path / "new", place / "fresh")


@pytest.mark.parametrize(("old", "new"), [("local", "memory"), ("memory", "memory"), ("memory", "local")])
def test_between_folders_and_object_stores(old: str, new: str, place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    """What a real store does is tested with the stores: here only that a shard is copied whichever way."""

    def at(kind: str, name: str) -> Folder:
        return open_folder(tmp_path / name if kind == "local" else f"memory:/{tmp_path}/{name}")

    earlier, out = at(old, "old"), at(new, "new")
    for name, data in files_of(place / "old").items():
        earlier.put(name, data)
    before = {name: earlier.read(name) for name in earlier.files()}
    shard = next(name for name in before if name.startswith("train/00001-"))
    earlier.put(shard, before[shard][:-1] + b"x")
    made = make(place / "grown/*.jsonl", out, earlier)
    assert (made.units, made.taken, len(made.not_taken)) == (3, 3, 1)
    assert earlier.at(shard) in made.not_taken[0]
    assert {name: out.read(name) for name in out.files() if name.endswith(".arrow")} == shards_of(place / "fresh")
    assert read_manifest(out).dataset == read_manifest(place / "fresh").dataset
    earlier.put(shard, before[shard])
    assert {name: earlier.read(name) for name in earlier.files()} == before
    assert make(place / "grown/*.jsonl", out, earlier).units == 0
    for inside in (earlier, f"{earlier}/new"):
        with pytest.raises(UsageError, match="overlap: a finished dataset"):
            make(place / "grown/*.jsonl", inside, earlier, overwrite=True)


# --- what is told -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected", "taken"),
    [
        ({"a": ROWS[:20]}, {"unchanged": (3, 20, 20), "removed": (2, 0, 10)}, 3),
        ({"a": [*ROWS[:9], {**ROWS[9], "label": 1, "text": "cat"}, *ROWS[10:20]], "b": ROWS[20:30]},
         {"unchanged": (4, 22, 22), "edited": (1, 8, 8)}, 4),
        ({"a": ROWS[:18], "b": ROWS[20:30]}, {"unchanged": (2, 16, 16), "edited": (1, 2, 4), "moved": (2, 10, 10)}, 2),
        ({"A": ROWS[50:51], **FILES}, {"moved": (5, 30, 30), "new": (1, 1, 0)}, 0),
        ({"a": [ROWS[50], *ROWS[:20]], "b": ROWS[20:30]}, {"edited": (3, 21, 20), "moved": (2, 10, 10)}, 0),
        ({"x": ROWS[40:60]}, {"edited": (3, 20, 20), "removed": (2, 0, 10)}, 0),
        ({"a": ROWS[:20], "b": ROWS[20:30], "c": ROWS[:8]}, {"unchanged": (5, 30, 30), "new": (1, 8, 0)}, 5),
        ({"a": [*ROWS[:16], *ROWS[40:46]], "b": ROWS[20:30]}, {"unchanged": (2, 16, 16), "edited": (1, 6, 4), "moved": (2, 10, 10)}, 2),
    ],
    ids=["a file less", "a row edited", "rows cut", "a file before", "a row before", "another corpus", "rows twice", "cut and appended"],
)  # fmt: skip
def test_what_became_of_every_unit(
    files: dict[str, list[dict[str, Any]]],
    expected: dict[str, tuple[int, int, int]],
    taken: int,
    place: Path,
    make: Callable[..., Generated],
    tmp_path: Path,
) -> None:
    made = make(corpus_at(tmp_path / "corpus", files), tmp_path / "new", place / "old")
    assert made.taken == taken
    assert became(tmp_path / "new") == expected


def test_a_file_that_grew_under_another_name(make: Callable[..., Generated], tmp_path: Path) -> None:
    make(write_jsonl(tmp_path / "data-2026-11-21.jsonl", ROWS[:20]), tmp_path / "old")
    made = make(write_jsonl(tmp_path / "data-2026-11-22.jsonl", ROWS[:30]), tmp_path / "new", tmp_path / "old")
    assert (made.units, made.taken) == (2, 2)
    assert became(tmp_path / "new") == {"unchanged": (2, 16, 16), "grown": (1, 8, 4), "new": (1, 6, 0)}
    entry = read_manifest(tmp_path / "new").predecessor
    assert entry is not None and entry["corpus"] == "data-2026-11-21.jsonl"


def test_more_rows_of_the_same_corpus(place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    make(place / "corpus/*.jsonl", tmp_path / "some", limit=16)
    made = make(place / "corpus/*.jsonl", tmp_path / "new", tmp_path / "some")
    assert (made.units, made.taken) == (3, 2)
    equal(tmp_path / "new", place / "old")


plans = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(st.tuples(st.sampled_from("pqr"), st.integers(1, 3)), max_size=5)), max_size=3)


def plan_of(files: list[tuple[str, list[tuple[str, int]]]]) -> Plan:
    units, names, row = [], [], 0
    for name, contents in dict(files).items():
        names.append(name)
        start = 0
        for content, count in contents:
            place = {"file": name, "start": start, "stop": start + count, "row": row}
            units.append(Unit(split="train", number=len(units), offset=None, rows_sha256=f"{content}{count}", id=str(row), **place))
            start, row = start + count, row + count
    corpus = CorpusIdentity(
        name="c", files={"train": names}, text_columns=("text",), label_column=None, label_kind=None, label_names=None,
        keep_columns=(), limit=None,
    )  # fmt: skip
    teacher = TeacherIdentity(name="t", digest="", tokenizer_digest="", vocab_digest="", vocab_size=1, model_type="bert")
    return Plan(corpus=corpus, teacher=teacher, config=GenerationConfig(), versions={}, units=tuple(units))


@given(plans, plans)
def test_every_unit_of_either_plan_is_told_once(old: Any, new: Any) -> None:
    before, now = plan_of(old), plan_of(new)
    found = list(changes(before, now))
    assert sorted(unit.row for _, unit, _ in found if unit) == [unit.row for unit in now.units]
    assert sorted(was.row for _, _, was in found if was) == [unit.row for unit in before.units]
    for kind, unit, was in found:
        same = unit is not None and was is not None and unit.rows_sha256 == was.rows_sha256
        assert same == (kind in ("unchanged", "moved"))
        assert (unit is None, was is None) == (kind == "removed", kind == "new")
        assert kind != "unchanged" or (unit and was and unit.row == was.row)


def test_the_summary_and_the_dry_run_say_it(place: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    asked = ("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "new", "--from-previous", place / "old", *SIZES)
    digest = read_manifest(place / "old").dataset[:12]
    became = "    train: unchanged 4 units, 28 rows; grown 1 unit, 2 -> 8 rows; new 1 unit, 5 rows\n"
    told = gen(*asked, "--dry-run").out
    assert f"  predecessor {digest}, of *.jsonl: 4 units would be taken over, 2 would run (13 rows)\n{became}" in told
    assert "By all 13 rows that would run; all of them, " in told
    assert not (tmp_path / "new").exists()
    ran = gen(*asked)
    assert ran.out.startswith(f"Wrote {tmp_path / 'new'}")
    assert f"  predecessor {digest}, of *.jsonl: 4 units taken over (28 rows), 2 run (13 rows)\n{became}" in ran.out


def test_a_dry_run_reckons_with_what_would_run_only(place: Path, make: Callable[..., Generated], teacher: Path, tmp_path: Path) -> None:
    shared = {"teacher": str(teacher), "threads": 1, "dtype": "float32", "rows_per_shard": 8, "topk": 3, "out": str(tmp_path / "new")}
    alone = preview(GenerateOptions(corpus=str(corpus_at(tmp_path / "alone", {"b": ROWS[28:36], "c": ROWS[36:41]})), **shared))
    grown = preview(GenerateOptions(corpus=str(place / "grown/*.jsonl"), from_previous=str(place / "old"), **shared))
    assert (grown.taken, grown.rows_left, grown.scope_rows, alone.rows_left) == (4, 13, 13, 13)
    assert grown.sample is not None and alone.sample is not None
    assert grown.sample.tokens == alone.sample.tokens
    assert [grown.bytes(loss) for loss in grown.sample.losses] == [alone.bytes(loss) for loss in alone.sample.losses]
    make(place / "grown/*.jsonl", tmp_path / "new", place / "old")
    everything = preview(GenerateOptions(corpus=str(place / "corpus/*.jsonl"), from_previous=str(place / "old"),
                                         **{**shared, "out": str(tmp_path / "other")}))  # fmt: skip
    assert (everything.taken, everything.rows_left, everything.sample) == (5, 0, None)


def test_nothing_in_common_is_told(place: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path / "corpus", {"x": ROWS[40:60]})
    asked = ("--corpus", corpus, "--out", tmp_path / "new", "--from-previous", place / "old", *SIZES)
    for words in (("--dry-run",), ()):
        ran = gen(*asked, *words)
        assert ran.code == 0
        assert "no whole unit in common with it: is it of another corpus" in ran.out


def test_a_class_that_turned_up_changes_every_unit_and_is_told(gen: Callable[..., Ran], tmp_path: Path) -> None:
    def lines(*classes: str) -> list[dict[str, Any]]:
        return [{"text": row["text"], "label": classes[i % len(classes)]} for i, row in enumerate(ROWS[:16])]

    day = lines("good", "bad")
    old, new = corpus_at(tmp_path / "1", {"a": day}), corpus_at(tmp_path / "2", {"a": day, "b": lines("poor")})
    assert gen("--corpus", old, "--out", tmp_path / "old", *SIZES).code == 0
    ran = gen("--corpus", new, "--out", tmp_path / "new", "--from-previous", tmp_path / "old", *SIZES)
    assert ran.code == 0
    assert '    nothing can be taken over: label_names: ["bad", "good"] then, ["bad", "good", "poor"] now\n' in ran.out
    assert counts(tmp_path / "new")[0] == {"units": 0, "rows": 0}
    assert became(tmp_path / "new") == {"unchanged": (2, 16, 16), "new": (2, 16, 0)}
    assert gen("--corpus", new, "--out", tmp_path / "fresh", *SIZES).code == 0
    equal(tmp_path / "new", tmp_path / "fresh")


# --- what may be wrong with the earlier dataset --------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("damage", ["a bit", "cut short", "missing"])
def test_a_damaged_shard_is_told_and_its_unit_is_run(
    damage: str, links: bool, place: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(finished, "link", lambda *args, **named: None)
    shutil.copytree(place / "old", tmp_path / "old")
    shard = next((tmp_path / "old/train").glob("00001-*"))
    data = bytearray(shard.read_bytes())
    match damage:
        case "a bit":
            data[len(data) // 2] ^= 1
            shard.write_bytes(data)
        case "cut short":
            shard.write_bytes(data[:-1])
        case "missing":
            shard.unlink()
    before = files_of(tmp_path / "old")
    ran = gen("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "new", "--from-previous", tmp_path / "old", *SIZES)
    assert ran.code == 0, ran.err
    assert f"    {shard} is {'damaged, its' if damage == 'a bit' else 'missing or cut short'}" in ran.out
    assert counts(tmp_path / "new") == ({"units": 3, "rows": 20}, {"units": 3, "rows": 21})
    equal(tmp_path / "new", place / "fresh")
    assert files_of(tmp_path / "old") == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--topk", 4), "topk: 3 there, 4 asked for"),
        (("--rows-per-shard", 16), "rows_per_shard: 8 there, 16 asked for"),
        (("--mass", 0.5), "mass: 1.0 there, 0.5 asked for"),
        (("--max-length", 9), "max_length: 24 there, 9 asked for"),
        (("--keep-columns", "idx"), 'keep_columns: [] there, ["idx"] asked for'),
        (("--text-column", "note"), 'text_columns: ["text"] there, ["note"] asked for'),
        (("--dtype", "bfloat16"), "dtype: float32 there, bfloat16 asked for"),
    ],
)
def test_other_settings_are_refused_by_name(
    words: tuple[Any, ...], named: str, place: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    given = dict(zip(SIZES[::2], SIZES[1::2], strict=True)) | dict(zip(words[::2], words[1::2], strict=True))
    flat = [word for pair in given.items() for word in pair]
    asked = ("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "new", "--from-previous", place / "old", *flat)
    for more in ((), ("--dry-run",)):
        ran = gen(*asked, *more)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
        assert f"--from-previous {place / 'old'} was made with other settings ({named})" in ran.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["torch", "code", "device"])
def test_other_versions_are_refused_by_name(
    name: str, place: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsmooth.pipeline.plan import versions as plan

    real = plan.versions("cpu", "plain")
    monkeypatch.setattr(plan, "versions", lambda device, codec: {**real, name: "9.9"})
    ran = gen("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "new", "--from-previous", place / "old", *SIZES)
    assert ran.code == 2
    assert f"versions {name}: {real[name]} there, 9.9 asked for"[:40] in ran.err
    assert not (tmp_path / "new").exists()


def test_another_teacher_is_refused_and_another_name_of_it_is_not(
    place: Path, teacher: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    shutil.copytree(teacher, tmp_path / "renamed")
    asked = ("--corpus", place / "grown/*.jsonl", "--from-previous", place / "old", *SIZES, "--teacher", tmp_path / "renamed")
    assert gen(*asked, "--out", tmp_path / "new").code == 0
    assert counts(tmp_path / "new")[0]["units"] == 4
    config = json.loads((tmp_path / "renamed/config.json").read_text())
    (tmp_path / "renamed/config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    ran = gen(*asked, "--out", tmp_path / "other")
    assert (ran.code, "teacher digest: " in ran.err) == (2, True)


def test_what_is_left_open_is_as_it_was(place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    make(place / "corpus/*.jsonl", tmp_path / "old", max_length=11, max_batch_tokens=64)
    assert make(place / "grown/*.jsonl", tmp_path / "new", tmp_path / "old").taken == 4
    config = read_manifest(tmp_path / "new").config
    assert (config["max_length"], config["max_batch_tokens"]) == (11, 64)


def test_what_is_no_finished_dataset_is_refused(place: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    def refused(code: int, previous: Path, said: str, out: Path = tmp_path / "new") -> None:
        ran = gen("--corpus", place / "grown/*.jsonl", "--out", out, "--from-previous", previous, *SIZES)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1), ran.err
        assert said in ran.err and "--from-previous" in ran.err
        assert not (tmp_path / "new").exists()

    refused(2, tmp_path / "nowhere", "there is no such folder")
    refused(2, place / "grown/b.jsonl", "that is a file")
    refused(1, place / "corpus", "has no manifest.json")
    old = tmp_path / "old"
    refused(2, place / "old", "overlap: a finished dataset", out=place / "old")
    refused(2, place / "old", "overlap: a finished dataset", out=place / "old/new")
    for name, said in (("receipts.jsonl", "missing or damaged"), ("plan.json", "has no plan.json"), ("manifest.json", "has no manifest")):
        shutil.copytree(place / "old", old)
        (old / name).unlink()
        refused(1, old, said)
        shutil.rmtree(old)
    shutil.copytree(place / "old", old)
    manifest = (old / "manifest.json").read_text()
    (old / "manifest.json").write_text(manifest.replace('"format": 1', '"format": 2'))
    refused(1, old, "format 2")
    (old / "manifest.json").write_text(manifest)
    receipts = (old / "receipts.jsonl").read_text()
    (old / "receipts.jsonl").write_text(receipts.replace("torch", "Torch", 1))
    ran = gen("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "begun", "--from-previous", old, *SIZES)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert f"--from-previous: {old / 'receipts.jsonl'} is missing or damaged" in ran.err
    assert gen("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "begun", *SIZES).code == 0
    equal(tmp_path / "begun", place / "fresh")


def test_rows_that_were_left_out_stay_left_out(make: Callable[..., Generated], tmp_path: Path) -> None:
    bad = [*ROWS[:3], {**ROWS[3], "text": None}, *ROWS[4:8]]
    make(write_jsonl(tmp_path / "before.jsonl", bad), tmp_path / "old", skip_bad_rows=True)
    corpus = corpus_at(tmp_path / "corpus", {"a": bad, "b": ROWS[8:12]})
    made = make(corpus, tmp_path / "new", tmp_path / "old", skip_bad_rows=True)
    assert (made.units, made.taken) == (1, 1)
    make(corpus, tmp_path / "fresh", skip_bad_rows=True)
    equal(tmp_path / "new", tmp_path / "fresh")
    assert (tmp_path / "new/quarantine.jsonl").read_bytes() == (tmp_path / "fresh/quarantine.jsonl").read_bytes()


def test_a_run_that_wants_to_be_told_of_bad_rows_takes_no_shard_without_them(place: Path) -> None:
    manifest = read_manifest(place / "old")
    first = replace(manifest.shards[0], skipped=1)
    plan = Plan.from_json(json.loads((place / "old/plan.json").read_bytes()))
    old = finished.Previous(folder=open_folder(place / "old"), manifest=replace(manifest, shards=(first, *manifest.shards[1:])), plan=plan)
    assert previously.reusable(old, plan.units, skip_bad_rows=True) == list(plan.units)
    assert previously.reusable(old, plan.units, skip_bad_rows=False) == list(plan.units[1:])


# --- interrupted --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("at", [0, 2, "run", "commit"])
def test_stopped_anywhere_and_run_again(
    at: int | str, gone: bool, place: Path, make: Callable[..., Generated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gone: the earlier dataset is removed before the run goes on."""
    shutil.copytree(place / "old", tmp_path / "old")

    def stop(*args: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    asked = (place / "grown/*.jsonl", tmp_path / "new", tmp_path / "old")
    real = finished.publish

    def some(out: Any, unit: Unit, receipt: Any) -> Any:
        return stop() if unit.number == at else real(out, unit, receipt)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == "run":
            patch.setattr("textsmooth.pipeline.units.worker.UnitWorker.score", stop)
        elif at == "commit":
            patch.setattr(generation, "commit", stop)
        else:
            patch.setattr(finished, "publish", some)
        make(*asked)
    receipts = len(list((tmp_path / "new/receipts").iterdir()))
    assert receipts == {"run": 4, "commit": 6}[at] if isinstance(at, str) else receipts <= 3  # several are taken over at once
    if gone:
        shutil.rmtree(tmp_path / "old")
    made = make(*asked)
    equal(tmp_path / "new", place / "fresh")
    assert counts(tmp_path / "new")[0]["units"] == (receipts if gone and isinstance(at, int) else 4)
    assert bool(made.not_taken) == gone and all("no longer available" in line for line in made.not_taken)
    assert became(tmp_path / "new") == {"unchanged": (4, 28, 28), "grown": (1, 8, 2), "new": (1, 5, 0)}
    assert make(*asked).units == 0


def test_a_finished_run_has_nothing_to_do_and_needs_no_predecessor(place: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    shutil.copytree(place / "old", tmp_path / "old")
    asked = ("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "new", "--from-previous", tmp_path / "old", *SIZES)
    assert gen(*asked).code == 0
    before = files_of(tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    for more in ((), ("--dry-run",)):
        assert gen(*asked, *more).out.startswith(f"Nothing to do: {tmp_path / 'new'} is finished")
    assert files_of(tmp_path / "new") == before


def test_a_run_goes_on_from_the_dataset_that_it_began_with(
    place: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    asked = ("--corpus", place / "grown/*.jsonl", "--out", tmp_path / "new", *SIZES)
    with monkeypatch.context() as patch:
        patch.setattr("textsmooth.pipeline.units.worker.UnitWorker.score", stop)
        assert gen(*asked, "--from-previous", place / "old").code == 130
        assert gen(*asked[:2], "--out", tmp_path / "plain", *SIZES).code == 130
    ran = gen(*asked, "--from-previous", place / "fresh")
    assert ran.code == 1 and "was begun from dataset" in ran.err
    ran = gen(*asked[:2], "--out", tmp_path / "plain", *SIZES, "--from-previous", place / "old")
    assert ran.code == 1 and "was begun without --from-previous" in ran.err
    assert "4 done" in gen(*asked, "--dry-run").out
    assert gen(*asked).code == 0  # without: what is left is run
    equal(tmp_path / "new", place / "fresh")
    assert counts(tmp_path / "new")[0]["units"] == 4


def test_killed_while_taking_over_and_two_at_once(place: Path, gen_process: Callable[..., Process], tmp_path: Path) -> None:
    big = corpus_at(tmp_path / "big", {"a": rows(200, 31)})
    more = corpus_at(tmp_path / "more", {"a": rows(200, 31), "b": ROWS[:9]})
    sizes = ("--rows-per-shard", 4, "--topk", 2, "--threads", 1)
    for corpus, out in ((big, "old"), (more, "fresh")):
        assert gen_process("--corpus", corpus, "--out", tmp_path / out, *sizes).wait().code == 0
    asked = ("--corpus", more, "--out", tmp_path / "new", "--from-previous", tmp_path / "old", *sizes)
    ran = gen_process(*asked)
    until(lambda: len(list((tmp_path / "new").glob("train/*.arrow"))) > 5)
    ran.kill(signal.SIGKILL)
    assert ran.wait().code == -signal.SIGKILL
    assert not (tmp_path / "new/manifest.json").exists()
    both = [gen_process(*asked), gen_process(*asked)]
    assert [(ran.code, ran.err) for ran in (each.wait() for each in both)] == [(0, "")] * 2
    equal(tmp_path / "new", tmp_path / "fresh")
    assert counts(tmp_path / "new")[0] == {"units": 50, "rows": 200}
    assert shards_of(tmp_path / "old").keys() < shards_of(tmp_path / "new").keys()


# --- the docs -----------------------------------------------------------------------------------------------------------------------


def test_the_format_names_what_the_manifest_has(place: Path, make: Callable[..., Generated], tmp_path: Path) -> None:
    make(place / "grown/*.jsonl", tmp_path / "new", place / "old")
    entry = read_manifest(tmp_path / "new").predecessor
    assert entry is not None
    text = (REPOSITORY / "docs/format.md").read_text(encoding="utf-8")
    section = text[text.index("## Predecessor") :].split("\n## ")[0]
    assert set(re.findall(r"^- `(\w+)`: ", section, re.MULTILINE)) == {*entry, "differs"}
    told = (REPOSITORY / "docs/growing.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\w+) \|", told, re.MULTILINE) == ["became", *KINDS]


@pytest.mark.docs
def test_the_nightly_script_of_the_docs(tmp_path: Path) -> None:
    script = re.findall(r"```bash\n(#!.*?)```", (REPOSITORY / "docs/growing.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "nightly.sh").write_text(script)
    (tmp_path / "reviews").mkdir()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def night(day: str) -> str:
        ran = subprocess.run(["bash", "nightly.sh", day], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    write_jsonl(tmp_path / "reviews/2026-11-21.jsonl", ROWS[:30])
    assert "predecessor" not in night("2026-11-21")
    write_jsonl(tmp_path / "reviews/2026-11-22.jsonl", ROWS[30:50])
    assert "1 unit taken over (30 rows), 1 run (20 rows)" in night("2026-11-22")
    assert night("2026-11-22").startswith("Nothing to do")
    write_jsonl(tmp_path / "reviews/2026-11-23.jsonl", ROWS[50:])
    assert "2 units taken over (50 rows), 1 run (10 rows)" in night("2026-11-23")
