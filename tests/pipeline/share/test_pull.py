"""Pulled from the Hub, to and from stores and folders: whole and last its manifest, whatever breaks on the way; parts say so."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_gen import Process, Ran, files_of, tree
from helpers_hub import go_offline
from helpers_share import at_head, rewrite
from hub_server import Fault, Hub
from s3_server import S3
from s3_server import Fault as StoreFault

from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.share.push import push
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages.dataset.open import open_folder, read_manifest

# From the Hub


def test_a_folder_wins_over_a_name_and_a_slip_of_the_pen_is_told(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    push(made, "me/set")
    push(made, "me/mime")  # somebody else's
    assert read_manifest("me/set").dataset == read_manifest(made).dataset
    Path("me").mkdir()
    shutil.copytree(made, "me/mine")
    assert open_folder("me/mine", reading=True).where == "me/mine"
    for args in (["inspect", "me/mime"], ["pull", "me/mime", "out"], ["pull", "me/mime", "out", "--revision", "main"]):
        ran = textsmooth(*args)
        assert ran.code == 2 and ran.err.splitlines()[0].endswith(
            "no folder me/mime here (closest: me/mine); for the Hub write hf://datasets/me/mime"
        )
    assert textsmooth("pull", "hf://datasets/me/mime", "out", "--progress", "none").code == 0
    ran = textsmooth("inspect", "they/set")
    assert ran.code == 2 and "no folder they/set here; as a name on the Hub: no dataset they/set" in ran.err
    assert textsmooth("push", made, "me/new").err.endswith("write ./me/new or hf://datasets/me/new\n")
    assert not hub.branches("datasets/me/new")


def test_offline_a_name_that_is_nowhere_is_told(made: Path, textsmooth: Callable[..., Ran], hub: Hub, monkeypatch) -> None:
    go_offline(monkeypatch)
    ran = textsmooth("inspect", "smoothed/demo-demo-k23")
    assert "no folder smoothed/demo-demo-k23 here; as a name on the Hub: HF_HUB_OFFLINE is set" in ran.err
    assert textsmooth("push", made, "me/set").err.startswith("textsmooth push: HF_HUB_OFFLINE is set")


def test_a_private_one_is_pulled_only_with_a_token(hub: Hub, made: Path, tmp_path: Path, monkeypatch) -> None:
    push(made, "me/set")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="unless it is private: check the name, or set HF_TOKEN"):
        pull("me/set", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_revision_is_pulled(hub: Hub, made: Path, smoothed: Path, tmp_path: Path) -> None:
    push(made, "me/set")
    before = hub.commit("datasets/me/set")
    push(smoothed, "me/set", overwrite=True)
    assert pull("me/set", tmp_path / "old", revision=before).dataset == read_manifest(made).dataset
    assert pull(f"hf://datasets/me/set@{before}", tmp_path / "older").dataset == read_manifest(made).dataset
    assert pull("me/set", tmp_path / "new").dataset == read_manifest(smoothed).dataset
    with pytest.raises(UsageError, match="--revision x works only with a repository on the Hub"):
        pull(made, tmp_path / "x", revision="x")
    hub.revisions["datasets/me/set"]["my/draft"] = made
    assert pull("me/set", tmp_path / "draft", revision="my/draft").dataset == read_manifest(made).dataset
    for asked in ({"source": "me/set", "revision": "../main"}, {"source": "hf://datasets/me/set@../main"}):
        with pytest.raises(UsageError, match=r"'\.\.(/main)?' is no branch, tag or commit"):
            pull(out=tmp_path / "x", **asked)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET .*/cdn/", drop_after=1_500, times=3),
        Fault("GET .*/cdn/", drop_after=10, reset=True, times=2),
        Fault("GET .*/resolve/.*receipts", status=503, times=2),
        Fault("GET .*/cdn/", delay_s=0.05, times=2),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.status} {fault.drop_after}",
)
def test_a_broken_connection_is_made_again(hub: Hub, made: Path, tmp_path: Path, fault: Fault) -> None:
    push(made, "me/set")
    hub.faults.append(fault)
    pull("me/set", tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(made)


def test_what_arrives_damaged_is_told_and_makes_no_dataset(hub: Hub, made: Path, tmp_path: Path) -> None:
    push(made, "me/set")
    folder = shutil.copytree(hub.branches("datasets/me/set")["main"], hub.uploads / "damaged")
    shard = sorted(folder.glob("train/*"))[0]
    data = bytearray(shard.read_bytes())
    shard.unlink()
    data[100] ^= 1
    shard.write_bytes(data)
    hub.revisions["datasets/me/set"]["main"] = folder
    with pytest.raises(DatasetError, match=rf"{shard.name} is not the [\d,]+ bytes and the sha256 of its manifest"):
        pull("me/set", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"has no manifest.json: not a smoothed dataset, or not finished"):
        read_manifest(tmp_path / "out")


@pytest.mark.parametrize("call", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(9, marks=pytest.mark.slow)])
def test_killed_while_it_pulls_the_same_command_ends_it(
    hub: Hub, made: Path, textsmooth_process: Callable[..., Process], call: int, tmp_path: Path
) -> None:
    push(made, "me/set")
    out = tmp_path / "out"
    patch = f"die_at('textsmooth.stages.storage.atomic', None, '_move', {call})\n"
    assert textsmooth_process("pull", "me/set", out, "--progress", "none", patch=patch, hub=hub).wait().code == -9
    assert not (out / MANIFEST).exists()
    ran = textsmooth_process("pull", "me/set", out, "--progress", "none", hub=hub).wait()
    assert ran.code == 0, ran.err
    assert files_of(out) == files_of(made) and tree(out) == tree(made)


@pytest.mark.parametrize("wait_s", [0, pytest.param(0.05, marks=pytest.mark.slow)])
def test_two_pull_into_one_folder_at_once(
    hub: Hub, made: Path, textsmooth_process: Callable[..., Process], tmp_path: Path, wait_s: float
) -> None:
    push(made, "me/set")
    out = tmp_path / "out"
    left = out / ".tmp-hub-0123456789abcdef"  # of a run that was killed
    left.mkdir(parents=True)
    hub.faults.append(Fault("GET .*", delay_s=0.02))
    slow = "import time\nfrom textsmooth.stages.storage import atomic as storage\nreal = storage._move\n"
    slow += f"storage._move = lambda *paths: (time.sleep({wait_s}), real(*paths))\n"
    processes = [textsmooth_process("pull", "me/set", out, "--progress", "none", hub=hub, patch=patch) for patch in (slow, "")]
    for ran in [process.wait() for process in processes]:
        assert ran.code == 0, ran.err
    assert files_of(out) == files_of(made) and tree(out) == tree(made)


def test_a_student_is_trained_from_a_name(hub: Hub, smoothed: Path, student: Path, textsmooth: Callable[..., Ran]) -> None:
    push(smoothed, "me/set")
    args = ["--student", student, "--out", "student", "--max-steps", 2, "--batch-size", 4, "--progress", "none", "--threads", 1]
    ran = textsmooth("train", "me/set", *args)
    assert ran.code == 0, ran.err
    assert (Path("student") / "model.safetensors").exists()
    record = json.loads((Path("student") / "train.json").read_text())
    assert read_manifest(smoothed).dataset in json.dumps(record)


def test_places_that_cannot_be_are_told(made: Path, tmp_path: Path, textsmooth: Callable[..., Ran]) -> None:
    Path("gone").symlink_to("/nonexistent/share")
    for out in ("gone", "gone/below"):
        ran = textsmooth("pull", made, out)
        assert ran.code == 2 and "gone is a broken link" in ran.err
    ran = textsmooth("push", made, "me/set@v1")
    assert ran.code == 2 and ran.err.endswith("push always writes branch main: remove @v1, or write ./me/set@v1 for a folder\n")


def test_a_card_that_was_edited_where_it_is_shared_does_not_keep_the_data_back(made: Path, tmp_path: Path) -> None:
    push(made, tmp_path / "shared")
    card = tmp_path / "shared/README.md"
    card.write_text(card.read_text().replace("license: ", "license: mit # ", 1) + "Collected by us.\n")
    assert pull(tmp_path / "shared", tmp_path / "out").dataset == read_manifest(made).dataset
    assert (tmp_path / "out/README.md").read_bytes() == (made / "README.md").read_bytes()


# Stores and folders


def test_through_a_store_and_back_with_connections_that_break(bucket: str, s3: S3, made: Path, tmp_path: Path) -> None:
    s3.faults(
        StoreFault("^PUT .*arrow", drop=True, times=2),
        StoreFault("^PUT .*arrow", status=503, code="SlowDown", times=2),
        StoreFault("^PUT .*manifest", status=500, late=True, times=1),
    )
    push(made, f"{bucket}/set")
    assert {name: s3.get(f"{bucket}/set/{name}") for name in files_of(made)} == files_of(made)
    puts = [line.split()[1] for line in s3.log() if line.startswith("PUT ") and not line.endswith("fault")]
    assert all(path.endswith(MANIFEST) for path in puts[-2:]) and sum(path.endswith(MANIFEST) for path in puts) == 2
    s3.clear()
    assert push(made, f"{bucket}/set").already
    assert not [line for line in s3.log() if line.startswith("PUT") or ("GET" in line and ".arrow" in line)]
    s3.faults(
        StoreFault("^GET .*arrow", body_bytes=500, times=3),
        StoreFault("^GET .*arrow", status=500, times=1),
        StoreFault("^GET .*arrow", flip=True, times=1),
    )
    pull(f"{bucket}/set", tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(made)
    s3.clear()
    shard = sorted(made.glob("train/*"))[1]
    s3.put(f"{bucket}/set/train/{shard.name}", bytes(reversed(shard.read_bytes())))
    with pytest.raises(DatasetError, match=r"\.arrow is not the [\d,]+ bytes and the sha256 of its manifest"):
        pull(f"{bucket}/set", tmp_path / "flipped")


def test_from_a_store_to_the_hub_and_from_there_to_a_store(bucket: str, hub: Hub, s3: S3, made: Path) -> None:
    push(made, f"{bucket}/set")
    push(f"{bucket}/set", "me/set")
    assert at_head(hub) == files_of(made)
    pull("me/set", f"{bucket}/again")
    assert {name: s3.get(f"{bucket}/again/{name}") for name in files_of(made)} == files_of(made)
    push("me/set", "me/copy")
    assert at_head(hub, "datasets/me/copy") == files_of(made)


def test_killed_on_the_way_to_a_store_or_a_folder(
    bucket: str, s3: S3, made: Path, textsmooth_process: Callable[..., Process], tmp_path: Path
) -> None:
    patches = {
        f"{bucket}/set": "die_at('textsmooth.stages.storage.store_folder', 'StoreFolder', 'put', 5)\n",
        str(tmp_path / "folder"): "die_at('textsmooth.stages.storage.atomic', None, '_move', 5)\n",
    }
    for place, patch in patches.items():
        env = {**s3.environment, "TEXTSMOOTH_CACHE": os.environ["TEXTSMOOTH_CACHE"]}
        assert textsmooth_process("push", made, place, "--progress", "none", patch=patch, env=env).wait().code == -9
        with pytest.raises(DatasetError, match=r"has no manifest.json"):
            read_manifest(place)
        ran = textsmooth_process("push", made, place, "--progress", "none", env=env).wait()
        assert ran.code == 0, ran.err
    assert files_of(tmp_path / "folder") == files_of(made) and tree(tmp_path / "folder") == tree(made)
    assert set(open_folder(f"{bucket}/set").files()) == set(files_of(made))


def test_a_damaged_file_of_a_folder_is_fetched_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pull(made, out)
    shard = sorted(out.glob("train/*"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (out / "tokenizer" / "tokenizer.json").unlink()
    assert pull(made, out).files == 2 and files_of(out) == files_of(made)


# What is seen


def test_where_it_goes_by_itself_and_what_is_printed(made: Path, textsmooth: Callable[..., Ran], smoothed: Path) -> None:
    ran = textsmooth("pull", smoothed, "--split", "validation", "--progress", "none")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.startswith("pulled   smoothed/dataset  (dataset ") and "next     textsmooth inspect smoothed/dataset" in ran.out
    assert "validation 60 rows in 1 shard\n" in ran.out and "a part of" in ran.out
    ran = textsmooth("pull", made, "out", "--json", "--progress", "json")
    assert json.loads(ran.out)["out"] == "out"
    events = [json.loads(line) for line in ran.err.splitlines()]
    assert [event["event"] for event in events] == ["started", "files", "finished"]
    assert events[1]["done"] == events[0]["files"] == events[2]["files"] == len(files_of(made)) - 1
    bar = textsmooth("push", made, "./pushed", "--progress", "rich")
    assert bar.code == 0 and "next     textsmooth train" in bar.out


def test_a_licence_that_binds_is_told(made: Path, tmp_path: Path) -> None:
    def notes(corpus: str | None, teacher: str | None) -> list[str]:
        other = shutil.copytree(made, tmp_path / f"{corpus}-{teacher}")
        manifest = json.loads((other / MANIFEST).read_bytes())
        manifest["corpus"]["license"], manifest["teacher"]["license"] = corpus, teacher
        rewrite(other, manifest)
        return list(push(other, tmp_path / "to" / other.name).notes)

    assert len(notes("cc-by-4.0", "apache-2.0")) == 1
    assert any("licence of the corpus" in note and "cc-by-nc-4.0: make sure" in note for note in notes("cc-by-nc-4.0", "mit"))
    assert any("licence of the teacher" in note and "is unknown" in note for note in notes("mit", None))
