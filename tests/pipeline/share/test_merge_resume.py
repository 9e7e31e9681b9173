"""A merge that was killed, is done already, or lies elsewhere: the same command makes the same dataset."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_gen import Process, files_of
from helpers_hub import at_hub
from helpers_merge import same_dataset
from hub_server import Hub

from textsmooth.pipeline.commit import finished
from textsmooth.pipeline.share.merge import merge
from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest


def test_done_it_is_not_done_again_and_overwrite_starts_anew(a: Path, b: Path, tmp_path: Path) -> None:
    first = merge([a, b], tmp_path / "out")
    before = files_of(tmp_path / "out")
    again = merge([a, b], tmp_path / "out")
    assert (again.taken, again.linked, again.manifest) == (0, first.linked, first.manifest)
    assert files_of(tmp_path / "out") == before
    assert "Nothing to do" in again.summary()
    other = merge([b, a], tmp_path / "out", overwrite=True)
    assert other.manifest.dataset != first.manifest.dataset and other.taken == 7


def damage(path: Path) -> None:
    """Other bytes in this place alone: a merged dataset's files may be other names of its sources'."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_what_is_damaged_in_the_merged_dataset_is_put_back(a: Path, b: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = merge([a, b], out)
    before, shards = files_of(out), [shard.path for shard in made.manifest.shards]
    damage(out / shards[0])
    (out / shards[-1]).unlink()
    damage(out / "README.md")
    damage(out / "tokenizer/tokenizer.json")
    found = verify(out)
    assert "--repair makes" not in (found.advice() or "")
    assert f"verify and repair its sources, then textsmooth merge SOURCE SOURCE… --out {out}" in (found.advice() or "")
    with pytest.raises(DatasetError, match=r"is missing; .*verify and repair the datasets it was merged of, then textsmooth merge"):
        SmoothedDataset(out, made.manifest.shards[-1].split)
    seen: list[tuple[int, int]] = []
    again = merge([a, b], out, progress=lambda *done: seen.append(done))
    assert set(again.mended) == {shards[0], shards[-1], "README.md", "tokenizer/tokenizer.json"} and seen[-1] == (7, 7)
    assert (again.taken, again.linked) == (2, 7) and "Nothing to do" not in again.summary() and shards[0] in again.summary()
    assert files_of(out) == before and verify(out).ok
    damage(out / "receipts.jsonl")
    assert f"--out {out} --overwrite makes it again; or download it again" in (verify(out).advice() or "")
    with pytest.raises(DatasetError, match=r"receipts\.jsonl is missing or damaged, and no source has it: merge again with --overwrite"):
        merge([a, b], out)


def test_damage_that_the_source_shares_is_told(a: Path, b: Path, tmp_path: Path) -> None:
    mine, out = Path(shutil.copytree(a, tmp_path / "a")), tmp_path / "out"
    made = merge([mine, b], out)
    path = made.manifest.shards[0].path
    data = bytearray((out / path).read_bytes())
    data[100] ^= 1
    (out / path).write_bytes(data)  # in place: the source's file is the same
    with pytest.raises(DatasetError, match=r"is damaged, its sha256 is not that of the manifest; repair that dataset"):
        merge([mine, b], out)


def test_one_name_is_one_dataset(a: Path, tmp_path: Path) -> None:
    for one in (str(a), a):
        with pytest.raises(UsageError, match="give at least two datasets, not 1"):
            merge(one, tmp_path / "out")  # type: ignore[arg-type]


PATCH = """
from textsmooth.pipeline.cli.share import merge as merge_command
real_run = cli.run
cli.run = lambda command, name, args: real_run(merge_command, 'textsmooth merge', [a for a in args if not a.startswith('--teacher')])
import textsmooth.stages.storage.local as there
calls = []
for name in ("put", "put_exclusive"):
    def counted(self, *args, real=getattr(there.LocalFolder, name)):
        calls.append(1)
        if len(calls) == AT:
            os.kill(os.getpid(), 9)
        return real(self, *args)
    setattr(there.LocalFolder, name, counted)
"""


@pytest.mark.parametrize(
    "at", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow), 9, pytest.param(13, marks=pytest.mark.slow)]
)  # plan, receipts, receipts.jsonl …, manifest
def test_killed_at_any_moment_the_same_command_finishes_it(
    at: int, a: Path, b: Path, merged: Path, tmp_path: Path, zygote: Callable[[Any], Any]
) -> None:
    out = tmp_path / "out"
    args = [str(a), str(b), "--out", str(out)]
    ran = Process(zygote, args, tmp_path, PATCH.replace("AT", str(at))).wait()
    assert ran.code == -9, ran.err
    assert not (out / "manifest.json").exists()
    merge([a, b], out)
    same_dataset(out, merged)


def test_copies_where_there_are_no_links(a: Path, b: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "link", lambda *args, **named: None)
    made = merge([a, b], tmp_path / "out")
    assert made.linked == 0 and "7 shards, copied" in made.summary()
    same_dataset(tmp_path / "out", merged)


def test_from_an_object_store_and_into_one(a: Path, b: Path, merged: Path, bucket: str, tmp_path: Path) -> None:
    from textsmooth.stages.dataset.open import open_folder

    there = open_folder(f"{bucket}/b")
    for name, data in files_of(b).items():
        there.put(name, data)
    assert merge([a, f"{bucket}/b"], tmp_path / "out").linked == 4
    same_dataset(tmp_path / "out", merged)
    made = merge([a, f"{bucket}/b"], f"{bucket}/ab")
    assert (made.manifest.dataset, made.linked) == (read_manifest(merged).dataset, 0)
    path = made.manifest.shards[0].path
    for data in (b"x", bytes(made.manifest.shards[0].bytes)):  # cut short; other bytes of the same size
        open_folder(f"{bucket}/ab").put(path, data)
        assert merge([a, f"{bucket}/b"], f"{bucket}/ab").mended == (path,)
    found = SmoothedDataset(f"{bucket}/ab", "train")
    assert found.batch(np.array([19, 20])).row.tolist() == [19, 20]


def test_from_the_hub(a: Path, b: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(b, tmp_path / "served/datasets/mine/b")
    with Hub(tmp_path / "served", large=2_000) as server, at_hub(monkeypatch, tmp_path / "home", server.url):
        merge([a, "mine/b"], tmp_path / "out")
    same_dataset(tmp_path / "out", merged)
