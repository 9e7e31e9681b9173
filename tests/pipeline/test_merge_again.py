"""A merge that was killed, is done already, or lies elsewhere: the same command makes the same dataset."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_gen import Process, files_of
from helpers_hub import at_hub
from helpers_merge import LABELLED, maker, same_dataset
from hub_server import Hub

from textsmooth.pipeline.merging import merge
from textsmooth.stages import storage
from textsmooth.stages.folder import read_manifest
from textsmooth.stages.stream import SmoothedDataset


@pytest.fixture(scope="module")
def make(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return maker(teacher, tmp_path_factory)


@pytest.fixture(scope="module")
def a(make: Callable[..., Path]) -> Path:
    return make("a", {"train": LABELLED[:20], "validation": LABELLED[20:25]})


@pytest.fixture(scope="module")
def b(make: Callable[..., Path]) -> Path:
    return make("b", {"train": LABELLED[30:43], "test": LABELLED[50:53]})


@pytest.fixture(scope="module")
def merged(a: Path, b: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b as one. Not to be changed."""
    out = tmp_path_factory.mktemp("merged") / "ab"
    merge([a, b], out)
    return out


def test_done_it_is_not_done_again_and_overwrite_starts_anew(a: Path, b: Path, tmp_path: Path) -> None:
    first = merge([a, b], tmp_path / "out")
    before = files_of(tmp_path / "out")
    again = merge([a, b], tmp_path / "out")
    assert (again.taken, again.linked, again.manifest) == (0, first.linked, first.manifest)
    assert files_of(tmp_path / "out") == before
    assert "Nothing to do" in again.summary()
    other = merge([b, a], tmp_path / "out", overwrite=True)
    assert other.manifest.dataset != first.manifest.dataset and other.taken == 7


PATCH = """
from textsmooth.pipeline import cli_merge
real_run = cli.run
cli.run = lambda command, name, args: real_run(cli_merge.merge, 'textsmooth merge', [a for a in args if not a.startswith('--teacher')])
import textsmooth.stages.folder as there
calls = []
for name in ("put", "put_exclusive"):
    def counted(self, *args, real=getattr(there.LocalFolder, name)):
        calls.append(1)
        if len(calls) == AT:
            os.kill(os.getpid(), 9)
        return real(self, *args)
    setattr(there.LocalFolder, name, counted)
"""


@pytest.mark.parametrize("at", [1, 2, 5, 9, 13])  # plan, receipts, receipts.jsonl …, manifest
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
    monkeypatch.setattr(storage, "link", lambda *args, **named: None)
    made = merge([a, b], tmp_path / "out")
    assert made.linked == 0 and "7 shards, copied" in made.summary()
    same_dataset(tmp_path / "out", merged)


def test_from_an_object_store_and_into_one(a: Path, b: Path, merged: Path, bucket: str, tmp_path: Path) -> None:
    from textsmooth.stages.folder import open_folder

    there = open_folder(f"{bucket}/b")
    for name, data in files_of(b).items():
        there.put(name, data)
    assert merge([a, f"{bucket}/b"], tmp_path / "out").linked == 4
    same_dataset(tmp_path / "out", merged)
    made = merge([a, f"{bucket}/b"], f"{bucket}/ab")
    assert (made.manifest.dataset, made.linked) == (read_manifest(merged).dataset, 0)
    found = SmoothedDataset(f"{bucket}/ab", "train")
    assert found.batch(np.array([19, 20])).row.tolist() == [19, 20]


def test_from_the_hub(a: Path, b: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(b, tmp_path / "served/datasets/mine/b")
    with Hub(tmp_path / "served", large=2_000) as server, at_hub(monkeypatch, tmp_path / "home", server.url):
        merge([a, "mine/b"], tmp_path / "out")
    same_dataset(tmp_path / "out", merged)
