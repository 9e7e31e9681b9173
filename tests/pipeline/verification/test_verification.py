"""`textsmooth verify`: a whole dataset passes, any damage is named, whatever kind it is of and wherever it lies."""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran, files_of, rows, write_jsonl
from helpers_verify import KINDS, Kinds, flip, said

from textsmooth.pipeline.share.merge import merge
from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.share.push import push
from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.shard import ShardReader
from textsmooth.stages.storage.atomic import pretty_json


@pytest.mark.parametrize("name", KINDS)
def test_what_was_made_is_whole_and_what_the_teacher_says(name: str, kinds: Kinds) -> None:
    folder, options = kinds[name]
    found = verify(folder, against_teacher=12, teacher=options[3])
    manifest = read_manifest(folder)
    assert said(found) == [] and found.ok
    assert (found.shards, found.digest) == (len(manifest.shards), manifest.dataset)
    assert found.bytes == sum(map(len, files_of(folder).values()))
    assert found.teacher is not None and (found.teacher.windows or found.teacher.rows) == 12 and found.teacher.tokens > 12
    assert found.teacher.ids_differ == 0 and (
        name == "compact-masked" or (found.teacher.kl_max < 1e-6 and found.teacher.variation_max < 1e-3)
    )
    assert found.notes == ()
    if name == "windows":
        assert (
            f": {found.teacher.rows} rows, 12 windows, {found.teacher.tokens} tokens compared" in found.summary()
            and found.teacher.rows < 12
        )


def test_rows_are_those_of_the_corpus_and_windows_those_of_the_shards(kinds: Kinds, tmp_path: Path) -> None:
    folder = kinds["windows"][0]
    shards = read_manifest(folder).shards
    found, windows = verify(folder), sum(shard.windows or 0 for shard in shards)
    assert (found.rows, found.windows) == (30, windows) and windows > 30
    assert f"with 30 rows, {windows} windows, " in found.summary() and found.to_json()["windows"] == windows
    assert verify(folder, checksums=True).windows is None and verify(kinds["single"][0]).to_json()["windows"] is None
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / shards[0].path).unlink()
    left = verify(tmp_path / "cut")
    assert (left.rows, left.unchecked_rows) == (23, 7)
    assert f"with 23 rows, {windows - (shards[0].windows or 0)} windows, " in left.summary()


def test_bytes_and_speed_have_a_unit_that_fits(kinds: Kinds) -> None:
    found = verify(kinds["single"][0])
    told = replace(found, bytes=52_300, seconds=0.25).summary()
    assert "; 52.3 kB in 0.25 s, 209.2 kB/s" in told
    assert "; 2.5 GB in 2.00 s, 1.2 GB/s" in replace(found, bytes=2_500_000_000, seconds=2.0).summary()


@pytest.mark.parametrize("name", ["single", "compact-single"])
def test_a_flipped_bit_anywhere_is_found(name: str, kinds: Kinds, tmp_path: Path) -> None:
    """As benchmarks/verify.py --flips does a thousand times; in every file, the manifest most often."""
    dataset = Path(shutil.copytree(kinds[name][0], tmp_path / name))
    rng = random.Random(0)
    files = list(files_of(dataset))
    picked = [*files, *(["manifest.json"] * 40), *(["run.json"] * 10), *rng.choices(files, k=100)]
    missed = []
    for name in picked:
        path = dataset / name
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        if verify(dataset, workers=1).ok:
            missed.append((name, bit))
        flip(path, bit)
    assert missed == [] and len(picked) > 155 and verify(dataset).ok


@pytest.mark.parametrize(
    ("old", "new"), [(b'"label', b'"\\u006cabel'), (b"0.9,", b"9e-1,"), (b'"topk": 6', b'"topk":  6'), (b"\n}\n", b"\n} ")]
)
def test_a_manifest_that_means_the_same_is_altered_all_the_same(old: bytes, new: bytes, dataset: Path) -> None:
    path = dataset / "manifest.json"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    found, odd = verify(dataset), "was altered: same content, but not the bytes that textsmooth writes"
    assert said(found) == [f"manifest.json: {odd}; download that file again"] and found.advice() is None


def test_without_its_manifest_nothing_can_be_checked(dataset: Path) -> None:
    flip(dataset / "manifest.json", 300)
    found = verify(dataset)
    assert len(found.findings) == 1 and found.damaged == ("manifest.json",) and found.digest is None
    first, *others = found.summary().splitlines()
    assert first.startswith("manifest.json: ") and "; fetch the dataset again" in first
    assert others == [f"{dataset}: 1 finding in 1 file", "  nothing else was checked, because manifest.json lists the files"]
    assert (found.shards, found.rows, found.tokens, found.files) == (0, 0, 0, 1)
    flip(dataset / "manifest.json", 300)
    (dataset / "manifest.json").write_bytes((dataset / "manifest.json").read_bytes().replace(b'"format": 1', b'"format": 2'))
    assert said(verify(dataset)) == ["manifest.json: has format 2, this version of textsmooth reads 1; update textsmooth"]
    (dataset / "manifest.json").unlink()
    with pytest.raises(DatasetError, match=r"no manifest\.json"):
        verify(dataset)
    with pytest.raises(UsageError, match="no smoothed dataset at"):
        verify(dataset / "nowhere")


def test_only_what_was_checked_is_counted(dataset: Path, where: dict[str, str]) -> None:
    whole, shards = verify(dataset), read_manifest(dataset).shards
    (dataset / shards[0].path).unlink()
    cut = dataset / shards[1].path
    cut.write_bytes(cut.read_bytes()[:-100])
    altered = dataset / shards[2].path  # and looked at all the same
    flip(altered, 8 * altered.read_bytes().index(next(ShardReader(altered).blocks()).soft.logprobs.tobytes()))
    readme = (dataset / "README.md").stat().st_size
    (dataset / "README.md").unlink()
    found = verify(dataset)
    assert (whole.unchecked_shards, whole.unchecked_rows, whole.unchecked_files) == (0, 0, 0)
    assert (found.shards, found.files) == (whole.shards - 2, whole.files - 1)
    for name in ("rows", "tokens", "entries"):
        lost = sum(shard.samples if name == "rows" else getattr(shard, name) for shard in shards[:2])
        assert getattr(found, name) == getattr(whole, name) - lost
    assert found.bytes == whole.bytes - shards[0].bytes - shards[1].bytes - readme
    assert "  3 shards with 16 rows, " in found.summary()
    assert "  not checked: 2 shards with 14 rows, 1 other file, missing or unreadable" in found.summary()
    assert found.to_json()["unchecked"] == {"shards": 2, "rows": 14, "files": 1}
    mended = verify(dataset, repair=True, **where)
    assert (mended.shards, mended.rows, mended.bytes, mended.unchecked_shards) == (whole.shards, whole.rows, whole.bytes, 0)
    assert "not checked" not in mended.summary()


def test_missing_cut_and_extra_files_are_told(dataset: Path) -> None:
    shards = sorted((dataset / "train").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    (dataset / "train/99999-0123456789ab.arrow").write_bytes(shards[2].read_bytes())
    (dataset / "tokenizer/tokenizer_config.json").unlink()
    (dataset / "notes.txt").write_text("mine")
    (dataset / "train/.tmp-1").write_text("")
    found = verify(dataset)
    assert [(f.path, f.altered) for f in found.findings][:2] == [
        ("tokenizer/tokenizer_config.json", True),
        ("train/99999-0123456789ab.arrow", False),
    ]
    text = "\n".join(said(found))
    assert f"train/{shards[0].name}: is missing" in text
    assert re.search(rf"train/{shards[1].name}: has [\d,]+ bytes, the manifest says [\d,]+", text)
    assert "is not in the manifest, but `datasets` would read it; remove it" in text
    assert any("notes.txt: not part of the dataset" in note for note in found.notes)
    assert any(".tmp-1: left by an interrupted run" in note for note in found.notes)


def test_what_stands_where_a_file_should_be_is_told(dataset: Path) -> None:
    shard = sorted((dataset / "train").iterdir())[0]
    for path in (shard, dataset / "plan.json"):
        path.unlink()
        path.mkdir()
    shutil.rmtree(dataset / "tokenizer")
    (dataset / "tokenizer").write_text("")
    found = verify(dataset)
    remedy = "cannot be read: Is a directory; remove that folder, then verify again: the file is then reported as missing"
    assert {f"train/{shard.name}: {remedy}", f"plan.json: {remedy}"} <= set(said(found))
    remedy = "remove the file at tokenizer, which should be a folder, then verify again"
    assert f"tokenizer/tokenizer.json: cannot be read: Not a directory; {remedy}" in said(found)
    assert found.advice() is None and found.to_json()["findings"][0]["remedy"]
    assert "contradicts" not in found.summary()


def test_a_finding_that_says_what_to_do_needs_no_other_advice(dataset: Path) -> None:
    shard = sorted((dataset / "train").iterdir())[0]
    stray = dataset / "train/99999-0123456789ab.arrow"
    stray.write_bytes(shard.read_bytes())
    (dataset / "run.json").write_bytes(b"{")
    found = verify(dataset)
    assert len(found.findings) == 2 and found.advice() is None
    assert not found.summary().splitlines()[-1].startswith("  nothing that")
    flip(shard, 5_000)
    assert "--repair makes damaged files again" in (verify(dataset).advice() or "")


def test_the_record_of_a_run_has_its_own_digest(dataset: Path) -> None:
    record = json.loads((dataset / "run.json").read_bytes())
    first = {name: value for name, value in record.items() if name != "digest"}
    cases = {"rows": {**record, "rows": 1}, "digest": {**first, "digesu": record["digest"]}, "unsigned": first, "none": []}
    for name, value in cases.items():
        (dataset / "run.json").write_bytes(pretty_json(value) if isinstance(value, dict) else b"[]\n")
        assert said(verify(dataset)) == ["run.json: was altered since the run wrote it; it is only a record of the run: remove it"], name


def test_merged_datasets_are_verified_too(kinds: Kinds, gen: Callable[..., Ran], tmp_path: Path) -> None:
    more = write_jsonl(tmp_path / "more.jsonl", rows(12, 9))
    shared = ("--text-column", "text", *KINDS["single"], "--topk", 6, "--rows-per-shard", 7)
    assert gen("--corpus", more, *shared, "--out", tmp_path / "more").code == 0
    merge([kinds["single"][0], tmp_path / "more"], tmp_path / "both")
    found = verify(tmp_path / "both", against_teacher=20, teacher=kinds["single"][1][3])
    assert said(found) == [] and found.rows == 42
    flip(sorted((tmp_path / "both/train").iterdir())[-1], 20_000)
    (finding, *_) = verify(tmp_path / "both", repair=True, corpus=str(more), teacher=kinds["single"][1][3]).findings
    assert finding.altered


def test_a_part_of_a_dataset_is_verified_as_one(kinds: Kinds, where: dict[str, str], tmp_path: Path) -> None:
    pull(str(kinds["single"][0]), str(tmp_path / "part"), shards="1-2")
    found = verify(tmp_path / "part", against_teacher=5, teacher=where["teacher"])
    assert said(found) == [] and (found.shards, found.rows) == (2, 14)
    shard = sorted((tmp_path / "part/train").iterdir())[1]
    flip(shard, 20_000)
    assert verify(tmp_path / "part", repair=True, **where).mended == (f"train/{shard.name}",)


def test_a_dataset_in_a_store_is_read_there_and_mended_there(kinds: Kinds, where: dict[str, str], bucket: str) -> None:
    files = files_of(kinds["single"][0])
    folder = open_folder(f"{bucket}/d")
    for name, data in files.items():
        folder.put(name, data)
    assert verify(f"{bucket}/d").ok
    name = next(name for name in files if name.endswith(".arrow"))
    data = bytearray(files[name])
    data[700] ^= 4
    folder.put(name, bytes(data))  # after a copy was read: what is in the store counts
    found = verify(f"{bucket}/d")
    assert found.damaged == (name,)
    assert verify(f"{bucket}/d", repair=True, **where).mended == (name,)
    assert folder.read(name) == files[name]


def test_a_dataset_on_the_hub_is_read_only(hub: Any, kinds: Kinds) -> None:
    push(str(kinds["single"][0]), "me/thing")
    found = verify("me/thing")
    assert said(found) == [] and found.shards == 5
    with pytest.raises(UsageError, match="is read-only: --repair needs a folder"):
        verify("me/thing", repair=True)
