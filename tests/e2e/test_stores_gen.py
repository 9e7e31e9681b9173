"""Whole runs in an object store: the bytes of a run on this machine, whatever goes wrong; and its readers, through the cache."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_gen import Process, Ran, rows, shards_of, until, write_jsonl, write_parquet
from s3_server import S3, Fault

from textsmooth.pipeline.cli.app import run, textsmooth
from textsmooth.schemas.errors import DatasetError
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest

SHARED = ("--rows-per-shard", "5")
UNITS = 8
FLAKY = (
    Fault("^(PUT|POST|GET|HEAD) ", status=500, share=0.08),
    Fault("^(PUT|GET|HEAD) ", status=503, code="SlowDown", share=0.04),
    Fault("^(PUT|GET) ", drop=True, share=0.06),
    Fault("^PUT ", drop=True, late=True, share=0.08),
    Fault("^PUT ", status=500, late=True, share=0.08),
    Fault("^GET ", body_bytes=50, share=0.08),
    Fault("^GET ", block_s=0.001, share=0.05),
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the same run on this machine writes, once."""
    return tmp_path_factory.mktemp("expected") / "out"


@pytest.fixture
def same(expected: Path, gen: Callable[..., Ran], reviews: Path) -> Callable[[str], None]:
    """Checks that a dataset in a store is that of a run on this machine, with nothing beside it."""
    if not expected.exists():
        assert gen("--corpus", reviews, *SHARED, "--out", expected).code == 0

    def check(uri: str) -> None:
        folder, here, there = open_folder(uri), read_manifest(expected), read_manifest(uri)
        assert there.dataset == here.dataset
        shards = shards_of(expected)
        assert folder.read_all(shards) == shards
        assert set(folder.files()) == {path.relative_to(expected).as_posix() for path in expected.rglob("*") if path.is_file()}
        assert folder.files() == {name: len(folder.read(name)) for name in folder.files()}

    return check


MANIFEST = "manifest.json"


def kinds(log: list[str]) -> Counter[str]:
    """Requests by what they cost: writes and listings, or reads."""
    return Counter("PUT, POST, LIST" if line.startswith(("PUT", "POST")) or "list-type" in line else "GET, HEAD" for line in log)


def test_a_run_is_that_of_this_machine_and_is_not_done_twice(
    gen: Callable[..., Ran], reviews: Path, same: Any, bucket: str, s3: S3
) -> None:
    out = f"{bucket}/deep/in/it"
    ran = gen("--corpus", reviews, *SHARED, "--out", out)
    assert ran.code == 0, ran.err
    assert f"Wrote {out} " in ran.out and f"textsmooth inspect {out}" in ran.out
    same(out)
    before = open_folder(out).read_all(open_folder(out).files())
    s3.clear()
    assert "Nothing to do" in gen("--corpus", reviews, *SHARED, "--out", out).out
    assert not [line for line in s3.log() if line.startswith("PUT")] and len(s3.log()) < 20
    assert open_folder(out).read_all(before) == before
    refused = gen("--corpus", reviews, *SHARED, "--topk", 5, "--out", out)
    assert refused.code == 1 and f"{out} holds another run (topk: 32 there, 5 asked for)" in refused.err


def test_what_a_unit_costs_in_requests(gen: Callable[..., Ran], tmp_path: Path, bucket: str, s3: S3) -> None:
    """docs/object-stores.md has these figures."""
    costs = []
    for number in (4, 16):
        corpus = write_jsonl(tmp_path / f"{number}.jsonl", rows(number))
        s3.clear()
        assert gen("--corpus", corpus, "--rows-per-shard", 1, "--out", f"{bucket}/{number}").code == 0
        assert len([line for line in s3.log() if line.startswith("PUT") and "/train/" in line]) == number
        costs.append(kinds([line for line in s3.log() if "list-type" not in line]))  # pages hold 1000 files, the stand-in's 20
    per_unit = {kind: (costs[1][kind] - costs[0][kind]) / 12 for kind in costs[1]}
    assert per_unit == {"PUT, POST, LIST": 2, "GET, HEAD": 3}


def test_an_unreliable_store_changes_nothing(gen: Callable[..., Ran], reviews: Path, same: Any, bucket: str, s3: S3) -> None:
    s3.faults(*FLAKY)
    ran = gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/x")
    assert ran.code == 0, ran.err
    assert sum(line.endswith((" fault", " lost")) for line in s3.log()) > 5
    s3.clear()
    same(f"{bucket}/x")


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("plan.json", marks=pytest.mark.slow),
        "receipts/train-00003",
        pytest.param("train/00005", marks=pytest.mark.slow),
        pytest.param("receipts.jsonl", marks=pytest.mark.slow),
        "manifest.json",
    ],
)
def test_a_run_that_the_store_stopped_goes_on(what: str, gen: Callable[..., Ran], reviews: Path, same: Any, bucket: str, s3: S3) -> None:
    s3.faults(Fault(rf"^PUT \S*/{what}", status=403, code="AccessDenied"))
    ran = gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/x")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert f"cannot write {bucket}/x/{what}" in ran.err and "access denied" in ran.err
    done = [line for line in s3.log() if line.startswith("PUT") and "/receipts/" in line and line.endswith(" 200")]
    s3.clear()
    assert gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/x").code == 0
    again = [line for line in s3.log() if line.startswith("PUT") and "/receipts/" in line]
    assert len(done) + len(again) == UNITS  # what was done is not done again
    same(f"{bucket}/x")


def test_a_store_that_stays_away_is_told_in_one_line(gen: Callable[..., Ran], reviews: Path, bucket: str, s3: S3) -> None:
    s3.faults(Fault("^PUT .*/train/", status=503, code="SlowDown"))
    ran = gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/x")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert "503 SlowDown" in ran.err and "run the same command again" in ran.err


def test_overwriting_takes_only_what_a_run_made(gen: Callable[..., Ran], reviews: Path, same: Any, bucket: str, s3: S3) -> None:
    out = f"{bucket}/x"
    assert gen("--corpus", reviews, "--rows-per-shard", 7, "--topk", 3, "--out", out).code == 0
    s3.put(f"{out}/train/mine.txt", b"mine")
    assert gen("--corpus", reviews, *SHARED, "--out", out, "--overwrite").code == 0
    assert s3.get(f"{out}/train/mine.txt") == b"mine"
    s3.delete(f"{out}/train/mine.txt")
    same(out)
    s3.put(f"{bucket}/other/file", b"mine")
    refused = gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/other", "--overwrite")
    assert refused.code == 1 and "removes only runs of textsmooth" in refused.err
    assert gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/other").code == 1


def test_a_dry_run_writes_nothing(gen: Callable[..., Ran], reviews: Path, bucket: str, s3: S3) -> None:
    ran = gen("--corpus", reviews, *SHARED, "--out", f"{bucket}/x", "--dry-run")
    assert ran.code == 0 and f"Would write {bucket}/x" in ran.out
    assert not [line for line in s3.log() if line.startswith(("PUT", "POST", "DELETE"))]


@pytest.mark.parametrize("streaming", ["always", "never"])
def test_a_corpus_in_a_store_makes_the_same_dataset(
    streaming: str, gen: Callable[..., Ran], reviews: Path, same: Any, bucket: str, s3: S3
) -> None:
    s3.put(f"{bucket}/in/reviews.jsonl", reviews.read_bytes())
    asked = ("--corpus", f"{bucket}/in/reviews.jsonl", *SHARED, "--streaming", streaming, "--out", f"{bucket}/x")
    assert gen(*asked).code == 0
    same(f"{bucket}/x")
    assert bucket not in json.dumps(read_manifest(f"{bucket}/x").corpus)
    assert "Nothing to do" in gen(*asked).out
    s3.put(f"{bucket}/in/reviews.jsonl", reviews.read_bytes().replace(b"the", b"THE"))
    refused = gen(*asked)
    assert refused.code == 1 and "the corpus reviews.jsonl changed since this folder was planned" in refused.err


def test_the_default_folder_is_named_after_the_corpus(
    gen: Callable[..., Ran], tmp_path: Path, bucket: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(tmp_path / "data/a.parquet", rows(4), group=4)
    s3.upload(tmp_path / "data", f"{bucket}/data")
    assert gen("--corpus", f"{bucket}/data/*.parquet").code == 0
    assert gen("--corpus", f"{bucket}/data").code == 0
    assert {path.name for path in (tmp_path / "smoothed").iterdir()} == {"parquet-tiny-bert-k32", "data-tiny-bert-k32"}


@pytest.fixture
def processes(zygote: Any, s3: S3, teacher: Path, tmp_path: Path) -> Callable[..., Process]:
    """Starts `textsmooth-gen` in processes that see the store."""
    number = iter(range(100))

    def start(*args: object) -> Process:
        folder = tmp_path / f"process-{next(number)}"
        folder.mkdir()
        shared = ["--teacher", teacher, "--dtype", "float32", "--progress", "none", "--threads", 1]
        return Process(zygote, [str(a) for a in (*args, *shared)], folder, f"os.environ.update({s3.environment!r})")

    return start


def test_killed_drivers_and_two_at_once_make_one_dataset(
    processes: Callable[..., Process], reviews: Path, same: Any, bucket: str, s3: S3
) -> None:
    asked = ("--corpus", reviews, *SHARED, "--out", f"{bucket}/x")
    s3.faults(Fault("^PUT .*/receipts/", delay_s=0.05))
    for receipts in (1, 4):
        process = processes(*asked)
        until(lambda n=receipts: sum("PUT" in line and "/receipts/" in line for line in s3.log()) >= n)  # type: ignore[misc]
        process.kill(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
    assert open_folder(f"{bucket}/x").size(MANIFEST) is None
    both = [processes(*asked), processes(*asked)]
    ran = [process.wait() for process in both]
    assert [r.code for r in ran] == [0, 0], ran
    same(f"{bucket}/x")


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Ran:
    capsys.readouterr()
    code = run(textsmooth, "textsmooth", [str(word) for word in words])
    return Ran(code, *capsys.readouterr())


def test_inspect_shows_what_it_shows_here(smoothed: Path, bucket: str, s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    uri = s3.upload(smoothed, f"{bucket}/some/dataset")
    here, there = (command(capsys, "inspect", place, "--row", 3, "--split", "train") for place in (smoothed, uri))
    assert there == here and here.code == 0
    none = command(capsys, "inspect", f"{bucket}/none")
    assert none.code == 1 and f"{bucket}/none has no manifest.json: not a smoothed dataset, or not finished" in none.err


def test_training_from_a_store_gives_the_same_student(
    smoothed: Path, student: Path, bucket: str, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = s3.upload(smoothed, f"{bucket}/some/dataset")
    asked = ("--student", student, "--max-steps", 3, "--batch-size", 8, "--threads", 1)
    assert command(capsys, "train", smoothed, *asked, "--out", "here").code == 0
    ran = command(capsys, "train", uri, *asked)
    assert ran.code == 0, ran.err
    there = tmp_path / "students/dataset-smoothed"
    assert {p.name for p in there.iterdir()} == {p.name for p in (tmp_path / "here").iterdir()}
    assert (there / "model.safetensors").read_bytes() == (tmp_path / "here/model.safetensors").read_bytes()


def test_opening_asks_for_one_listing_and_reading_for_each_shard_once(smoothed: Path, bucket: str, s3: S3, tmp_path: Path) -> None:
    uri = s3.upload(smoothed, f"{bucket}/d")
    s3.clear()
    dataset = SmoothedDataset(uri, "train")
    assert [("list" if "list-type" in line else line.split()[0]) for line in s3.log()] == ["GET", "list"]
    s3.clear()
    everything = np.arange(len(dataset))
    here = SmoothedDataset(smoothed, "train").batch(everything)
    for _ in range(2):
        np.testing.assert_array_equal(dataset.batch(everything).soft.ids, here.soft.ids)
    assert len(s3.log()) == len(dataset.shards)
    np.testing.assert_array_equal(SmoothedDataset(uri, "train").batch(everything).soft.ids, here.soft.ids)
    assert sum(".arrow" in line for line in s3.log()) == len(dataset.shards)
    assert {path.name for path in (tmp_path / "cache/files").iterdir()} == {shard.sha256 for shard in dataset.shards}


def test_a_small_cache_is_enough(smoothed: Path, bucket: str, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTSMOOTH_CACHE_GB", "0")
    dataset = SmoothedDataset(s3.upload(smoothed, f"{bucket}/d"), "train")
    everything = np.arange(len(dataset))
    np.testing.assert_array_equal(dataset.batch(everything).input_ids, SmoothedDataset(smoothed, "train").batch(everything).input_ids)


def test_a_damaged_copy_is_fetched_again_and_a_damaged_shard_is_told(
    smoothed: Path, bucket: str, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = s3.upload(smoothed, f"{bucket}/d")
    shard = read_manifest(uri).split("train")[0]
    row = np.arange(1)
    expected = SmoothedDataset(uri, "train").batch(row).soft.ids
    copy = tmp_path / "cache/files" / shard.sha256
    data = copy.read_bytes()
    copy.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    os.utime(copy, ns=(1, 1))
    np.testing.assert_array_equal(SmoothedDataset(uri, "train").batch(row).soft.ids, expected)
    assert copy.read_bytes() == data
    copy.unlink()
    s3.faults(Fault(r"^GET .*\.arrow", flip=True, times=1))
    np.testing.assert_array_equal(SmoothedDataset(uri, "train").batch(row).soft.ids, expected)
    copy.unlink()
    s3.clear()
    s3.put(f"{uri}/{shard.path}", data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    with pytest.raises(DatasetError, match=rf"{shard.path} in {uri} was altered: .*; fetch that file again"):
        SmoothedDataset(uri, "train").batch(row)
    assert not copy.exists()
    told = command(capsys, "inspect", uri, "--split", "train")
    assert told.code == 1 and len(told.err.splitlines()) == 1
    s3.put(f"{uri}/{shard.path}", data[:-1])
    with pytest.raises(DatasetError, match=rf"shard {shard.path} in .* has [\d,]+ bytes, the manifest says"):
        SmoothedDataset(uri, "train")
    s3.delete(f"{uri}/{shard.path}")
    with pytest.raises(DatasetError, match=f"shard {shard.path} in {uri} is missing"):
        SmoothedDataset(uri, "train")
