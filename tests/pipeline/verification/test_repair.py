"""`textsmooth verify --repair`: what can be made again is, the same bytes, and nothing else is touched."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_gen import files_of, rows, write_jsonl
from helpers_verify import KINDS, Kinds, flip, said

from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage.atomic import pretty_json


@pytest.mark.parametrize("name", KINDS)
def test_repair_makes_the_same_bytes_again(name: str, kinds: Kinds, tmp_path: Path) -> None:
    original, options = kinds[name]
    folder = Path(shutil.copytree(original, tmp_path / "dataset"))
    before = files_of(folder)
    shards = sorted(path for path in before if path.endswith(".arrow"))
    flip(folder / shards[0], 9_999)
    flip(folder / shards[1], 30)
    (folder / shards[-1]).unlink()
    flip(folder / "README.md", 100)
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    (folder / "tokenizer/tokenizer_config.json").unlink()
    if "quarantine.jsonl" in before:
        flip(folder / "quarantine.jsonl", 77)
    asked = dict(zip(("corpus", "teacher", "task_teacher"), options[1::2], strict=False))
    found = verify(folder, repair=True, **asked)  # type: ignore[arg-type]
    assert said(found) == [] and found.refused == ()
    lost = {"README.md", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", shards[0], shards[1], shards[-1]}
    assert set(found.mended) == lost | ({"quarantine.jsonl"} & set(before))
    assert files_of(folder) == before


def test_repair_touches_only_what_is_damaged(dataset: Path, where: dict[str, str]) -> None:
    times = {path: (dataset / path).stat().st_mtime_ns for path in files_of(dataset)}
    shards = sorted((dataset / "train").iterdir())
    inode = shards[2].stat().st_ino
    flip(shards[2], 12_345)
    assert verify(dataset, repair=True, **where).mended == (f"train/{shards[2].name}",)
    changed = {path for path in files_of(dataset) if (dataset / path).stat().st_mtime_ns != times[path]}
    assert changed == {f"train/{shards[2].name}"} and shards[2].stat().st_ino != inode  # put in place whole
    assert verify(dataset, repair=True, corpus="nowhere").ok  # nothing to do: nothing is looked for


def test_repair_refuses_other_bytes_and_says_what_differs(dataset: Path, where: dict[str, str], tmp_path: Path) -> None:
    shard = sorted((dataset / "train").iterdir())[0]
    before = shard.read_bytes()
    flip(shard, 5_000)
    damaged = files_of(dataset)
    other = tmp_path / "single.jsonl"
    other.write_text(Path(where["corpus"]).read_text().replace("the", "a"))
    found = verify(dataset, repair=True, corpus=str(other), teacher=where["teacher"])
    assert len(found.refused) == 1 and "changed since the run was planned" in found.refused[0] and not found.ok
    with pytest.raises(UsageError, match=r"has no file single\.jsonl"):
        verify(dataset, repair=True, corpus=str(write_jsonl(tmp_path / "x.jsonl", rows(3))), teacher=where["teacher"])
    with pytest.raises(UsageError, match=r"the manifest names corpus 'single\.jsonl': give its path with --corpus"):
        verify(dataset, repair=True, teacher=where["teacher"])
    manifest = read_manifest(dataset)
    first = replace(manifest.shards[0], sha256="0" * 64)
    name = Manifest.dataset_digest(manifest.plan, (first, *manifest.shards[1:]))
    forged = replace(manifest, shards=(first, *manifest.shards[1:]), dataset=name)
    (dataset / "manifest.json").write_bytes(pretty_json(forged.to_json()))
    found = verify(dataset, repair=True, **where)
    assert any("this machine gives other bytes, though versions and device are the same" in why for why in found.refused)
    (dataset / "manifest.json").write_bytes(damaged["manifest.json"])
    assert files_of(dataset) == damaged and before != damaged[f"train/{shard.name}"]


def test_what_cannot_be_made_again_is_to_be_fetched(dataset: Path, where: dict[str, str]) -> None:
    flip(dataset / "receipts.jsonl", 900)
    shard = sorted((dataset / "train").iterdir())[0]
    flip(shard, 5_000)
    found = verify(dataset, repair=True, **where)  # a shard needs the plan alone
    assert found.mended == (f"train/{shard.name}",)
    assert found.refused == ("receipts.jsonl cannot be made again, because it contains times of its run: download it again",)
    assert found.damaged == ("receipts.jsonl",) and "download the remaining files again" in found.summary()
    assert verify(dataset).advice() == "none of these files can be made again: download them again"
    flip(dataset / "plan.json", 900)
    flip(shard, 5_000)
    assert "shards cannot be made again without plan.json: download it first" in verify(dataset, repair=True, **where).refused
