"""A smoothed dataset on the Hub: one commit, fetched once and checked, read again without a connection, never written."""

import pickle
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers_hub import at_hub, bodies, go_offline
from helpers_inspect import read_row
from hub_server import Fault, Hub

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.hub.folder import HubFolder

URI = "hf://datasets/tiny/smoothed"


@pytest.fixture
def server(smoothed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub with a dataset in a repository, and in a folder of another; an empty cache; short waits."""
    root = tmp_path / "hub"
    shutil.copytree(smoothed, root / "datasets/tiny/smoothed")
    for name in ("one", "two"):
        shutil.copytree(smoothed, root / "datasets/tiny/several/sets" / name)
        (root / "datasets/tiny/several/sets" / name / "plan.json").write_text("{}")
    (root / "datasets/tiny/several/sets/notes").mkdir()
    (root / "datasets/tiny/several/sets/notes/manifest.json").write_text("{}")
    (root / "datasets/tiny/nothing").mkdir()
    (root / "datasets/tiny/nothing/README.md").write_text("nothing")
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.001)))
    with Hub(root, large=2_000, page=3) as found, at_hub(monkeypatch, tmp_path / "home", found.url):
        yield found


@pytest.mark.parametrize("uri", [URI, f"{URI}@main", "hf://datasets/tiny/several/sets/one/"])
def test_it_is_read_as_a_local_one(server: Hub, smoothed: Path, uri: str) -> None:
    local, dataset = SmoothedDataset(smoothed, "train"), SmoothedDataset(uri, "train")
    assert dataset.manifest == local.manifest and not dataset.is_local
    rows = np.arange(300)
    np.testing.assert_array_equal(dataset.batch(rows).soft.logprobs, local.batch(rows).soft.logprobs)
    shards = {f"/cdn/{shard.sha256}" for shard in local.shards}
    assert len(shards) == 2
    assert sorted(line for line in bodies(server.log) if line in shards) == sorted(shards)  # each once
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (our own)
    before = len(server.log)
    np.testing.assert_array_equal(copy.batch(rows).row, rows)
    assert len(server.log) == before
    assert read_row(uri, 3).tokens == read_row(smoothed, 3).tokens


def test_a_folder_of_several_names_them(server: Hub, smoothed: Path) -> None:
    folder = "hf://datasets/tiny/several@main/sets"
    with pytest.raises(UsageError) as error:
        read_manifest(folder)
    assert str(error.value) == f"no smoothed dataset at {folder}: name one of {folder}/one, {folder}/two"
    assert read_manifest(f"{folder}/two") == read_manifest(smoothed)
    asked = len(server.log)
    with pytest.raises(DatasetError, match=r"tiny/nothing has no manifest\.json: not a smoothed dataset"):
        read_manifest("hf://datasets/tiny/nothing")
    assert not any("paths-info" in line for line in server.log[asked:])  # it has no folders
    server.faults.append(Fault("/tree/", status=500))
    with pytest.raises(DatasetError, match=r"has no manifest\.json"):  # told all the same
        read_manifest(folder)


def test_without_a_connection_the_cache_is_read(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = SmoothedDataset(URI, "train").batch(np.arange(300))
    go_offline(monkeypatch)
    dataset = SmoothedDataset(URI, "train")
    np.testing.assert_array_equal(dataset.batch(np.arange(300)).soft.ids, expected.soft.ids)
    with pytest.raises(DatasetError, match=r"HF_HUB_OFFLINE is set, and .*validation/00000.arrow is not in the cache: run once"):
        SmoothedDataset(URI, "validation").batch(np.arange(3))
    with pytest.raises(DatasetError, match=r"HF_HUB_OFFLINE is set, and hf://datasets/tiny/several/.* is not in the cache: run once"):
        SmoothedDataset("hf://datasets/tiny/several/sets/one", "train")


@pytest.mark.parametrize("revision", [None, "main", "my/draft"])
def test_a_branch_is_looked_up_once_and_without_its_files(server: Hub, monkeypatch: pytest.MonkeyPatch, revision: str | None) -> None:
    server.revisions["datasets/tiny/smoothed"] = dict.fromkeys(("main", "my/draft"), server.root / "datasets/tiny/smoothed")
    uri = f"{URI}@{revision.replace('/', '%2F')}" if revision else URI
    commit = server.commit("datasets/tiny/smoothed")
    for asks in ("GET", "HEAD", "GET"), ("GET",):  # what the cache has is not asked for again
        server.log.clear()
        folder = HubFolder(uri)
        assert folder.found["revision"] == commit and folder.read("manifest.json")
        assert tuple(line.split()[0] for line in server.log) == asks
        assert re.fullmatch(r"GET /api/datasets/tiny/smoothed(/revision/[\w%]+)?\?expand=sha", server.log[0])
        assert all(f"/resolve/{commit}/" in line or "/cdn/" in line for line in server.log[1:])
    go_offline(monkeypatch)
    assert HubFolder(uri).found["revision"] == commit


def test_offline_a_branch_is_where_it_was_last_seen(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = Path(shutil.copytree(server.root / "datasets/tiny/smoothed", tmp_path / "moved"))
    (moved / "notes.txt").write_text("another commit")
    seen = []
    for folder in (server.root / "datasets/tiny/smoothed", moved):
        server.revisions["datasets/tiny/smoothed"] = {"main": folder}
        seen.append(HubFolder(URI).found["revision"])
    go_offline(monkeypatch)
    assert len(set(seen)) == 2 and HubFolder(URI).found["revision"] == seen[1]


def test_a_branch_that_moves_does_not_move_what_is_open(server: Hub, smoothed: Path, tmp_path: Path) -> None:
    dataset = SmoothedDataset(URI, "train")
    server.revisions["datasets/tiny/smoothed"] = {
        "old": server.root / "datasets/tiny/smoothed",
        "main": server.root / "datasets/tiny/nothing",
    }
    assert len(dataset.batch(np.arange(300))) == 300
    with pytest.raises(DatasetError, match=r"has no manifest.json: not a smoothed dataset"):
        SmoothedDataset(URI, "train")
    assert len(SmoothedDataset(f"{URI}@old", "train")) == 300


def test_a_damaged_copy_is_fetched_again_and_a_damaged_shard_told(server: Hub, tmp_path: Path) -> None:
    dataset = SmoothedDataset(URI, "train")
    shard = dataset.shards[0]
    path = dataset.touch(0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    SmoothedDataset(URI, "train").batch(np.arange(300))
    published = server.root / "datasets/tiny/smoothed" / shard.path
    published.write_bytes(path.read_bytes()[:-1] + b"!")
    again = SmoothedDataset(URI, "train")
    shutil.rmtree(tmp_path / "home/hub/datasets--tiny--smoothed/blobs")
    with pytest.raises(DatasetError, match=r"train/00000.arrow in hf://datasets/tiny/smoothed is not .* tell who has published it"):
        again.batch(np.arange(300))


def test_what_passes_is_tried_again(server: Hub) -> None:
    server.faults.append(Fault(pattern=r"\.arrow", status=503, times=2))
    assert len(SmoothedDataset(URI, "train").batch(np.arange(300))) == 300


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("hf://datasets/tiny", UsageError, "is hf://datasets/owner/name, with @revision"),
        ("hf://models/tiny/x", UsageError, "is hf://datasets/owner/name, with @revision"),
        ("hf://datasets/tiny/smoothed/../x", UsageError, "is hf://datasets/owner/name, with @revision"),
        ("hf://datasets/tiny/unknown", UsageError, "no dataset tiny/unknown"),
        (f"{URI}@v9", UsageError, "dataset tiny/smoothed has no revision 'v9'; it has main; a commit is named by all 40 characters"),
        ("hf://datasets/tiny/nothing", DatasetError, "has no manifest.json: not a smoothed dataset"),
    ],
)
def test_what_is_not_there(server: Hub, uri: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        SmoothedDataset(uri, "train")


def test_it_is_never_written(server: Hub) -> None:
    with pytest.raises(UsageError, match="an object store is named by s3://, gs://, not hf://"):
        open_folder(URI)  # of --out
    folder = open_folder(URI, reading=True)
    assert folder.exists() and not folder.empty() and folder.size("nothing") is None
    assert folder.read_all(["manifest.json", "nothing"]).keys() == {"manifest.json"}
    for write in (
        lambda: folder.put("x", b""),
        lambda: folder.put_exclusive("x", b""),
        lambda: folder.remove(["x"]),
        lambda: folder.prune(["x"]),
    ):
        with pytest.raises(UsageError, match="is read, not written"):
            write()
