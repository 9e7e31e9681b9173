"""Some shards of a dataset: a dataset of its own, which says so, and grows when more is pulled to the same place."""

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_gen import Process, Ran, files_of, tree, until
from helpers_hub import bodies
from helpers_share import pull_to, rewrite
from hub_server import Hub

from textsmooth.pipeline.progress import TransferProgress
from textsmooth.pipeline.share import pull as retrieve
from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.share.push import push
from textsmooth.pipeline.verification.run import verify
from textsmooth.schemas.errors import ConflictError, UsageError
from textsmooth.schemas.manifest import MANIFEST, Manifest
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.storage import atomic as storage
from textsmooth.stages.storage.local import LocalFolder
from textsmooth.stages.storage.transfer import FolderTarget, Reader


def test_some_shards_are_a_dataset_that_says_so(made: Path, tmp_path: Path) -> None:
    whole = read_manifest(made)
    found = pull(made, tmp_path / "part", splits="train", shards="1-2,4")
    manifest = read_manifest(tmp_path / "part")
    assert manifest.partial_of == whole.dataset == found.partial_of and manifest.dataset == found.dataset != whole.dataset
    assert manifest.shards == tuple(whole.shards[number] for number in (1, 2, 4))
    listed = {entry.path for entry in (*manifest.files, *manifest.shards)} | {MANIFEST}
    assert listed == set(files_of(tmp_path / "part"))
    receipts = [json.loads(line) for line in (tmp_path / "part/receipts.jsonl").read_text().splitlines()]
    assert [receipt["shard"] for receipt in receipts] == [shard.path for shard in manifest.shards]
    assert manifest.statistics["tokens"] == sum(shard.tokens for shard in manifest.shards) < whole.statistics["tokens"]
    assert manifest.statistics["bytes"] == sum(shard.bytes for shard in manifest.shards)
    dataset, all_of_it = SmoothedDataset(tmp_path / "part", "train"), SmoothedDataset(made, "train")
    rows = [*range(8, 24), *range(32, 40)]
    np.testing.assert_array_equal(dataset.batch(np.arange(24)).input_ids, all_of_it.batch(np.array(rows)).input_ids)
    import datasets

    loaded = datasets.load_dataset(str(tmp_path / "part"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["row"] == rows


def test_shards_may_be_numbers(made: Path, tmp_path: Path) -> None:
    assert pull(made, tmp_path / "a", shards=[0, 1]).dataset == pull(made, tmp_path / "b", shards="0-1").dataset


def test_a_split_is_a_part_and_all_of_them_are_the_whole(smoothed: Path, tmp_path: Path) -> None:
    found = pull(smoothed, tmp_path / "part", splits=["validation"])
    assert found.splits == {"validation": {"shards": 1, "rows": 60, "tokens": found.splits["validation"]["tokens"]}}
    assert read_manifest(tmp_path / "part").splits == ("validation",)
    assert pull(smoothed, tmp_path / "whole", splits=["validation", "train"], shards="0-1").partial_of is None
    assert files_of(tmp_path / "whole") == files_of(smoothed)
    again = pull(tmp_path / "part", tmp_path / "again")  # a part is pulled, and pushed, like any other
    assert again.partial_of == read_manifest(smoothed).dataset and files_of(tmp_path / "again") == files_of(tmp_path / "part")


def test_what_is_pulled_into_a_part_is_added_to_it(hub: Hub, made: Path, tmp_path: Path) -> None:
    push(made, "me/set")
    out = tmp_path / "out"
    for asked in ("3", "0-1", "1"):
        hub.log.clear()
        found = pull("me/set", out, shards=asked)
    assert found.already and found.splits["train"]["shards"] == 3  # fewer are asked for than are there
    assert files_of(out) == files_of(pull_to(made, tmp_path / "same", shards="0-1,3")) and verify(out).ok
    hub.log.clear()
    assert pull("me/set", out, shards="2").files == 3  # with receipts and card
    asked_for = {line.split("/cdn/")[1] for line in bodies(hub.log) if "/cdn/" in line}
    shards = read_manifest(made).split("train")
    assert shards[2].sha256 in asked_for and not asked_for & {shards[n].sha256 for n in (0, 1, 3, 4)}
    assert pull("me/set", out).partial_of is None
    assert files_of(out) == files_of(made) and tree(out) == tree(made)
    assert pull("me/set", out, shards="0").already and files_of(out) == files_of(made)
    pull("me/set", out, shards="0", overwrite=True)
    assert len(read_manifest(out).shards) == 1 and len(list(out.rglob("*.arrow"))) == 1


def test_splits_are_added_and_a_damaged_shard_is_mended_on_the_way(
    smoothed: Path, tmp_path: Path, bucket: str, textsmooth: Callable[..., Ran]
) -> None:
    out = pull_to(smoothed, tmp_path / "out", splits="validation")
    shard = next(out.rglob("*.arrow"))
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    ran = textsmooth("pull", smoothed, out, "--split", "train, validation", "--progress", "none")
    assert ran.code == 0 and files_of(out) == files_of(smoothed)
    pull(smoothed, f"{bucket}/set", splits="train", shards="1")
    pull(smoothed, f"{bucket}/set")
    assert files_of(pull_to(f"{bucket}/set", tmp_path / "again")) == files_of(smoothed)


def test_shards_of_another_dataset_are_not_added(made: Path, smoothed: Path, tmp_path: Path) -> None:
    out = pull_to(made, tmp_path / "out", shards="1")
    before = files_of(out)
    with pytest.raises(ConflictError, match="has another dataset"):
        pull(smoothed, out, splits="train")
    with pytest.raises(ConflictError, match="has other shards of this dataset: replace them with --overwrite"):
        pull(pull_to(made, tmp_path / "two", shards="2"), out)  # which does not have the first
    assert files_of(out) == before


@pytest.mark.parametrize("call", [pytest.param(n, marks=[] if n in (2, 6, 10) else pytest.mark.slow) for n in range(1, 12)])
def test_killed_while_it_grows_the_part_is_there_and_the_same_command_ends_it(
    made: Path, textsmooth_process: Callable[..., Process], tmp_path: Path, call: int
) -> None:
    out = pull_to(made, tmp_path / "out", shards="1")
    before = files_of(out)
    patch = f"die_at('textsmooth.stages.storage.atomic', None, '_move', {call})\n"
    assert textsmooth_process("pull", made, out, "--progress", "none", patch=patch).wait().code == -9
    changed = {"receipts.jsonl"} if call == 11 else set()  # between the first of the records and the manifest
    assert {name for name in before if files_of(out)[name] != before[name]} == changed
    if call <= 6:  # nothing is in place yet
        assert verify(out).ok and len([name for name in files_of(out) if name.endswith(".arrow")]) == 1
    assert len(SmoothedDataset(out, "train").batch(np.arange(8))) == 8
    ran = textsmooth_process("pull", made, out, "--progress", "none", "--json").wait()
    assert ran.code == 0 and (call < 6 or json.loads(ran.out)["files"] == 1), ran.err  # the card: all else had come
    assert files_of(out) == files_of(made) and tree(out) == tree(made)


@pytest.mark.parametrize("asked", ["0", "2-3", "0-4"])
@pytest.mark.parametrize(
    ("owner", "name", "first"),
    [
        (retrieve, "existing_part", True),  # it has read what is there
        (FolderTarget, "send", True),  # its shards lie under temporary names
        (storage, "move", True),  # the first of them is in place
        (LocalFolder, "put", False),  # all is in place but the manifest
        (LocalFolder, "put", True),  # it is about to remove what a killed run has left
    ],
)
def test_another_that_comes_meanwhile_waits_and_goes_on_from_what_is_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, first: bool, asked: str
) -> None:
    out = pull_to(made, tmp_path / "out", shards="0")
    came, done, failed, real = [], threading.Event(), [], getattr(owner, name)

    def other() -> None:
        try:
            pull(made, out, shards=asked)
        except Exception as error:
            failed.append(error)
        done.set()

    def come() -> None:
        if not came:
            came.append(threading.Thread(target=other))
            came[0].start()
            assert done.wait(20)  # until it waits, or is through

    def hooked(*args: Any, **options: Any) -> Any:
        if not first:
            come()
        found = real(*args, **options)
        come()
        return found

    monkeypatch.setattr(TransferProgress, "waiting", lambda shown, where: done.set())
    monkeypatch.setattr(owner, name, hooked)
    pull(made, out, shards="1")
    came[0].join()
    wanted = {"0": "0-1", "2-3": "0-3", "0-4": None}[asked]
    assert not failed and files_of(out) == files_of(pull_to(made, tmp_path / "same", shards=wanted)) and verify(out).ok


def test_two_that_add_to_one_folder_give_both(made: Path, textsmooth_process: Callable[..., Process], tmp_path: Path) -> None:
    out = pull_to(made, tmp_path / "out", shards="0")
    slow = "import time\nfrom textsmooth.stages.storage import atomic as storage\nreal = storage._move\n"
    slow += "storage._move = lambda *paths: (time.sleep(0.1), real(*paths))\n"
    asked = ("1", "2-3")
    for ran in [textsmooth_process("pull", made, out, "--shards", shards, "--progress", "none", patch=slow) for shards in asked]:
        assert (found := ran.wait()).code == 0 and found.err == ""
    assert files_of(out) == files_of(pull_to(made, tmp_path / "same", shards="0-3"))


@pytest.mark.parametrize("progress", ["json", pytest.param("rich", marks=pytest.mark.slow)])
def test_behind_one_that_is_killed_another_says_that_it_waits_and_ends_it(
    made: Path, textsmooth_process: Callable[..., Process], tmp_path: Path, progress: str
) -> None:
    out = pull_to(made, tmp_path / "out", shards="0")
    stuck = "import time\nfrom textsmooth.stages.storage import atomic as storage\nreal = storage._move\n"
    stuck += f"storage._move = lambda *paths: (real(*paths), open({str(tmp_path / 'moved')!r}, 'w'), time.sleep(60))\n"
    killed = textsmooth_process("pull", made, out, "--shards", "1-2", "--progress", "none", patch=stuck)
    until((tmp_path / "moved").exists)
    waits = textsmooth_process("push" if progress == "rich" else "pull", made, out, "--overwrite", "--progress", progress)
    until(lambda: any(told.read_text() for told in tmp_path.glob("process-*/stderr")))
    before = files_of(out)
    assert verify(out).ok  # a reader does not wait
    killed.kill(signal.SIGKILL)
    ran = waits.wait()
    assert ran.code == 0 and len(read_manifest(made).shards) > len([name for name in before if name.endswith(".arrow")])
    if progress == "json":
        told = [json.loads(line) for line in ran.err.splitlines()]
        assert told[0] == {"event": "waiting", "where": str(out)} and [line["event"] for line in told].count("waiting") == 1
    else:
        assert ran.err.count(f"another pull or push is writing to {out}: waiting for it, then continuing with its files\n") == 1
    assert files_of(out) == files_of(made) and tree(out) == tree(made)


def test_where_there_are_no_locks_it_goes_on_without(hub: Hub, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, flags: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOLCK, "no locks")

    push(made, "me/set")
    monkeypatch.setattr("fcntl.flock", no_locks)
    out = pull_to("me/set", tmp_path / "out", shards="0")
    somebodys = out / ".tmp-hub-0123456789abcdef"
    somebodys.mkdir()
    pull("me/set", out)
    assert somebodys.exists() and files_of(out) == files_of(made)


def test_what_a_stranger_lists_is_not_held_in_memory(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, held = shutil.copytree(made, tmp_path / "source"), []
    (source / "notes.txt").write_bytes(notes := b"of any size")
    manifest = json.loads((source / MANIFEST).read_bytes())
    manifest["files"].append({"path": "notes.txt", "bytes": len(notes), "sha256": hashlib.sha256(notes).hexdigest()})
    rewrite(source, manifest)
    out = pull_to(source, tmp_path / "out", shards="0")
    (out / "notes.txt").unlink()
    real = Reader.bytes
    monkeypatch.setattr(Reader, "bytes", lambda reader, entry: (held.append(entry.path), real(reader, entry))[1])
    pull(source, out, shards="1")
    assert files_of(out) == files_of(pull_to(source, tmp_path / "same", shards="0-1"))
    assert set(held) == {"receipts.jsonl"}  # of which a part is made


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shards": "0-9"}, "--shards 0-9: there is no shard 9; train has 5 \\(0-4\\)"),
        ({"shards": "3-1"}, "expected numbers from 0 or ranges, like 0-9 or 0-3,7"),
        ({"shards": "-1"}, "expected numbers from 0 or ranges"),
        ({"shards": ""}, "expected numbers from 0 or ranges"),
        ({"splits": "test"}, "no split 'test' in this dataset; it has train"),
        ({"progress": "loud"}, "progress 'loud' is none of"),
    ],
)
def test_a_part_that_is_not_there_is_wrong_usage(made: Path, tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pull(made, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_run_does_not_take_a_part_for_what_it_has_to_make(made: Path, reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    pull(made, tmp_path / "part", shards="0-1")
    before = files_of(tmp_path / "part")
    ran = gen("--corpus", reviews, "--rows-per-shard", 8, "--topk", 4, "--out", tmp_path / "part")
    assert ran.code == 1 and "has only some shards of this dataset: textsmooth pull fetches the rest" in ran.err
    assert files_of(tmp_path / "part") == before


def test_part_of_stays_out_of_the_digest_of_whole_ones(made: Path) -> None:
    manifest = read_manifest(made)
    assert "partial_of" not in manifest.to_json() and Manifest.from_json(manifest.to_json(), "x") == manifest
