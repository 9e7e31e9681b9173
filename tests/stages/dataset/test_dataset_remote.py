"""A dataset in a store: shards are fetched several at a time, each once, and only those whose rows are used."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from s3_server import S3

from textsmooth.stages.dataset import dataset as module
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import FETCHED_AT_ONCE, SmoothedDataset

ROWS = [20, 31, 9, 40, 12, 25]
COLLATE = SmoothedCollator(pad_id=0)


@pytest.fixture(scope="module")
def local(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    first = np.cumsum([0, *ROWS])
    blocks = [kit.random_rows(n, rows, first_row=int(first[n])).block for n, rows in enumerate(ROWS)]
    folder: Path = kit.write_dataset(tmp_path_factory.mktemp("d") / "dataset", {"train": blocks})
    return folder


@pytest.fixture
def uri(local: Path, bucket: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a dataset that this machine has no room to keep."""
    monkeypatch.setenv("TEXTSMOOTH_CACHE_GB", "0")
    monkeypatch.setattr(module, "OPEN_SHARDS", 1)
    yield s3.upload(local, f"{bucket}/dataset")


def fetched(s3: S3) -> list[int]:
    return sorted(int(line.split(".arrow")[0][-5:]) for line in s3.log() if line.startswith("GET") and ".arrow" in line)


def test_batches_of_all_epochs_are_counted_from_one_pass_over_the_shards(uri: str, local: Path, s3: S3) -> None:
    stream, here = (SmoothedDataset(place, "train").stream(COLLATE, batch_tokens=60) for place in (uri, local))
    s3.clear()
    for epoch in range(3):
        for counted in (stream, here):
            counted.set_epoch(epoch)
        assert stream.steps == here.steps > 1
    assert set(fetched(s3)) == set(range(len(ROWS)))
    assert len(fetched(s3)) < 2 * len(ROWS)  # with so little room, one may go before it is opened


def test_only_shards_of_rows_that_are_used_are_looked_at(uri: str, s3: S3) -> None:
    dataset = SmoothedDataset(uri, "train")
    rows = np.zeros(sum(ROWS), np.bool_)
    rows[[3, 55, 99]] = True  # of shards 0, 2 and 3
    stream = dataset.stream(COLLATE, batch_tokens=60, rows=rows)
    s3.clear()
    assert stream.steps >= 1
    assert set(fetched(s3)) == {0, 2, 3}
    before = len(fetched(s3))
    assert (dataset.lengths_of(np.flatnonzero(rows)) > 0).all()
    assert len(fetched(s3)) == before
    assert dataset.lengths_of(np.array([3, 21]))[1] > 0  # and others when they are asked for
    assert set(fetched(s3)) == {0, 1, 2, 3}


def test_several_are_fetched_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together, met, touch = threading.Barrier(FETCHED_AT_ONCE), set[int](), SmoothedDataset.touch

    def meeting(self: SmoothedDataset, index: int) -> Path:
        if index < FETCHED_AT_ONCE and index not in met:
            met.add(index)
            together.wait(10)
        return touch(self, index)

    monkeypatch.setattr(SmoothedDataset, "touch", meeting)
    dataset = SmoothedDataset(uri, "train")
    assert len(dataset.lengths) == sum(ROWS)
    assert met == set(range(FETCHED_AT_ONCE))
    assert not dataset._prefetches
