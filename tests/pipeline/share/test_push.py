"""Pushed and pulled: whole and last its manifest, whatever breaks on the way; nothing else is touched, and a token is never said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Process, Ran, files_of, tree
from helpers_hub import bodies
from helpers_share import TOKEN, at_head, change_file, rewrite
from hub_server import Fault, Hub

from textsmooth.pipeline.cli import app as cli
from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.share.push import push
from textsmooth.schemas.errors import ConflictError, DatasetError, StorageError
from textsmooth.schemas.manifest import MANIFEST
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.hub import upload as hub_upload


def test_pushed_and_pulled_it_is_the_same_and_the_manifest_came_last(hub: Hub, made: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hub_upload, "COMMIT_FILES", 3)
    monkeypatch.setattr(hub_upload, "GROUP_FILES", 2)
    pushed = push(str(made), "me/set")
    assert at_head(hub) == files_of(made)
    assert hub.private["datasets/me/set"] == {TOKEN} and pushed.public is False
    done = [what for _, _, what in hub.commits]
    assert len(done) == 4 and [what.split()[1] for what in done[-1]] == [MANIFEST] and max(map(len, done)) == 4
    assert pushed.files == len(files_of(made)) - 1 and pushed.kept_files == 0 and not pushed.already
    pulled = pull("me/set", tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(made)
    assert not any(path.rsplit("/")[-1].startswith(".") for path in tree(tmp_path / "again"))
    assert pulled.dataset == pushed.dataset == read_manifest(made).dataset and pulled.partial_of is None


def test_the_second_time_there_is_nothing_to_do(hub: Hub, made: Path, tmp_path: Path) -> None:
    push(made, "hf://datasets/me/set")
    before = len(hub.commits)
    again = push(made, "me/set")
    assert again.already and len(hub.commits) == before and "nothing to do: it is already there" in again.summary()
    pull("me/set", tmp_path / "out")
    asked = len(hub.log)
    found = pull("me/set", tmp_path / "out")
    assert found.already and found.files == 0 and not [body for body in bodies(hub.log[asked:]) if ".arrow" in body]


def test_one_made_again_with_the_same_shards_is_there_already(hub: Hub, made: Path, tmp_path: Path) -> None:
    push(made, "me/set")
    other = shutil.copytree(made, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_bytes())
    manifest["created"] = "2020-01-01T00:00:00+00:00"
    rewrite(other, manifest)
    assert push(other, "me/set").already
    folder = shutil.copytree(hub.branches("datasets/me/set")["main"], hub.uploads / "damaged")
    for name in ("plan.json", "tokenizer/tokenizer.json"):  # small, and large enough for LFS
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).unlink()
        (folder / name).write_bytes(data)
    hub.revisions["datasets/me/set"]["main"] = folder
    assert push(other, "me/set").files == 2 and at_head(hub) == files_of(other)


def test_what_is_lost_there_is_sent_again_and_nothing_else(hub: Hub, made: Path) -> None:
    push(made, "me/set")
    folder = hub.branches("datasets/me/set")["main"]
    shard = next(iter(sorted(made.glob("train/*.arrow"))))
    moved = shutil.copytree(folder, hub.uploads / "less")
    (moved / "train" / shard.name).unlink()
    hub.revisions["datasets/me/set"]["main"] = moved
    found = push(made, "me/set")
    assert found.files == 1 and at_head(hub) == files_of(made)


def test_it_is_public_only_if_asked_and_that_is_said(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    private = textsmooth("push", made, "me/set", "--progress", "none")
    assert private.code == 0 and "(private)" in private.out and private.err == ""
    assert "the dataset contains the corpus text as token ids: private; --public makes it public" in private.out
    assert "the licence of the corpus" in private.out and "is unknown: make sure that you may share it" in private.out
    public = textsmooth("push", made, "me/set", "--public", "--progress", "none")
    assert public.code == 0 and "(public)" in public.out and "datasets/me/set" not in hub.private
    assert "the dataset contains the corpus text as token ids: everyone can read it" in public.err  # before anything is sent
    again = textsmooth("push", made, "me/set", "--progress", "none")
    assert again.code == 2 and "me/set is public, all read what is pushed there: add --public, or make it private" in again.err
    other = textsmooth("push", made, "me/other", "--public", "--progress", "none")
    assert other.code == 0 and "datasets/me/other" not in hub.private
    folder = textsmooth("push", made, "./here", "--public")
    assert folder.code == 2 and "--public works only on the Hub" in folder.err


def test_another_dataset_is_replaced_only_if_asked(hub: Hub, made: Path, smoothed: Path) -> None:
    push(smoothed, "me/set")
    with pytest.raises(ConflictError, match=r"has another dataset \(\w{12}, not \w{12}\): replace it with --overwrite"):
        push(made, "me/set")
    assert at_head(hub) == files_of(smoothed)
    hub.commits.clear()
    push(made, "me/set", overwrite=True)
    assert at_head(hub) == files_of(made)
    done = [what for _, _, what in hub.commits]
    assert done[0] == [f"deletedFile {MANIFEST}"] and [what.split()[1] for what in done[-1]] == [MANIFEST]


def test_a_repository_with_something_else_is_left_alone(hub: Hub, made: Path) -> None:
    (hub.root / "datasets/tiny/pictures").mkdir(parents=True)
    for name in ("README.md", "cat.png"):
        (hub.root / "datasets/tiny/pictures" / name).write_text("mine")
    with pytest.raises(ConflictError, match=r"contains other files \(cat.png\): choose an empty target"):
        push(made, "tiny/pictures", public=True)
    with pytest.raises(ConflictError, match="contains other files"):
        push(made, "tiny/pictures", public=True, overwrite=True)
    assert not hub.commits


def test_a_repository_with_a_card_of_its_own_keeps_it(hub: Hub, made: Path) -> None:
    own = {"README.md": b"# my own", "LICENSE": b"mine", ".gitattributes": b""}
    folder = hub.root / "datasets/me/own"
    folder.mkdir(parents=True)
    for name, data in own.items():
        (folder / name).write_bytes(data)
    hub.private["datasets/me/own"] = {TOKEN}
    with pytest.raises(ConflictError, match=r"different files with the same names \(README.md\): replace them with --overwrite, or choose"):
        push(made, "me/own")
    assert not hub.commits and at_head(hub, "datasets/me/own")["README.md"] == b"# my own"
    push(made, "me/own", overwrite=True)
    assert at_head(hub, "datasets/me/own") == {**files_of(made), "LICENSE": b"mine"}


def test_a_history_with_another_dataset_is_not_made_public(hub: Hub, made: Path, smoothed: Path, textsmooth: Callable[..., Ran]) -> None:
    push(smoothed, "me/set")
    said = r"me/set is private and its history has another dataset or other files \(.*\), which --public would let all read: push to a new"
    for overwrite in (False, True):
        with pytest.raises(ConflictError, match=said):
            push(made, "me/set", public=True, overwrite=overwrite)
    assert at_head(hub) == files_of(smoothed) and "datasets/me/set" in hub.private
    push(made, "me/set", overwrite=True)
    ran = textsmooth("push", made, "me/set", "--public", "--progress", "none")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1 and "datasets/me/set" in hub.private
    branches = hub.revisions["datasets/me/set"]
    push(made, "me/other")
    hub.revisions["datasets/me/other"]["draft"] = branches["main"]
    push(made, "me/other", public=True)  # the same dataset on another branch
    assert "datasets/me/other" not in hub.private


def test_another_branch_counts_too_and_one_made_again_does_not(hub: Hub, made: Path, smoothed: Path, tmp_path: Path) -> None:
    push(made, "me/set")
    other = shutil.copytree(made, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_bytes())
    rewrite(other, {**manifest, "created": "2020-01-01T00:00:00+00:00"})
    hub.revisions["datasets/me/set"]["draft"] = smoothed
    with pytest.raises(ConflictError, match="another dataset or other files"):
        push(other, "me/set", public=True)
    del hub.revisions["datasets/me/set"]["draft"]
    assert push(other, "me/set", public=True).already and "datasets/me/set" not in hub.private


@pytest.mark.parametrize("name", ["me/a--b", "me/a..b", "me/x.git", "me/set.", f"{'m' * 97}/x"])
def test_a_name_that_cannot_be_is_told(hub: Hub, made: Path, textsmooth: Callable[..., Ran], name: str) -> None:
    for ran in (textsmooth("pull", name, "out"), textsmooth("push", made, name)):
        assert ran.code == 2 and len(ran.err.splitlines()) == 1 and "cannot be a name on the Hub: at most 96 of A-Z" in ran.err, ran.err


def test_an_address_without_a_name_is_refused(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    name = "hf://datasets/../.."
    for ran in (textsmooth("pull", name, "out"), textsmooth("push", made, name)):
        assert ran.code == 2 and len(ran.err.splitlines()) == 1 and "hf://datasets/owner/name" in ran.err, ran.err


def test_what_strangers_wrote_does_not_steer_a_terminal(made: Path, textsmooth: Callable[..., Ran], tmp_path: Path) -> None:
    other = shutil.copytree(made, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_bytes())
    manifest["corpus"]["license"] = "mit\x1b]0;owned\x07, \u202eevil"
    manifest["teacher"]["name"] = "bert\x1b[2J"
    rewrite(other, manifest)
    for ran in (textsmooth("push", other, "./a", "--progress", "none"), textsmooth("pull", other, "./b", "--progress", "none")):
        assert ran.code == 0 and all(line.isprintable() for line in (ran.out + ran.err).splitlines())
    (tmp_path / "desk/c").mkdir()
    (tmp_path / "desk/c/x\x1b[2J").write_text("")
    ran = textsmooth("pull", other, "./c", "--progress", "none")
    assert ran.code == 1 and ran.err.strip().isprintable()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST .*/commit/", status=503, times=2),
        Fault("POST .*/commit/", status=500, late=True, times=1),  # it took effect, and nobody was told
        Fault("POST .*/commit/", status=409, times=1),
        Fault("POST .*/preupload/", status=429, headers={"Retry-After": "0"}, times=2),
        Fault("PUT .*/lfs/", drop_sent=1_000, times=2),
        Fault("PUT .*/lfs/", status=500, times=2),
        Fault("POST .*/commit/", drop_sent=200, times=1),
        Fault("POST .*/repos/create", status=503, times=1),
        Fault("PUT .*/lfs/", delay_s=0.05, times=2),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.status} {fault.late} {fault.drop_sent}",
)
def test_what_passes_is_tried_again(hub: Hub, made: Path, fault: Fault) -> None:
    hub.multipart = 10_000  # the larger files in parts
    hub.faults.append(fault)
    push(made, "me/set")
    assert at_head(hub) == files_of(made)
    assert len(hub.commits) == len({tuple(what) for _, _, what in hub.commits}) == 2  # nothing was committed twice
    assert fault.times < 1_000_000


def test_a_commit_between_the_last_look_and_the_manifest_is_looked_at(hub: Hub, made: Path, monkeypatch) -> None:
    real, looked = hub_upload.HubTarget._look_again, []

    def look(self: Any) -> None:
        real(self)
        looked.append(1)
        if len(looked) == 1:  # somebody writes a line into the repository
            folder = hub.branches("datasets/me/set")["main"]
            moved = shutil.copytree(folder, hub.uploads / "more")
            (moved / "LICENSE").write_text("mine")
            hub.revisions["datasets/me/set"]["main"] = moved

    monkeypatch.setattr(hub_upload.HubTarget, "_look_again", look)
    push(made, "me/set")
    assert at_head(hub) == {**files_of(made), "LICENSE": b"mine"} and len(looked) == 2


def test_what_does_not_pass_is_one_line_without_the_token(hub: Hub, made: Path, textsmooth: Callable[..., Ran], monkeypatch) -> None:
    def said(code: int, *args: object) -> str:
        ran = textsmooth("push", made, *args, "--progress", "none")
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (code, "", 1), ran.err
        assert TOKEN not in ran.err and "hf_" not in ran.err.replace("HF_", "")
        return ran.err

    assert "your token may not write to other/set (You don't have the rights" in said(1, "other/set")
    hub.faults.append(Fault("POST .*/commit/", status=503))
    assert "the Hub failed with 503, several times: run the same command again: what has arrived is kept" in said(1, "me/set")
    with pytest.raises(DatasetError, match=r"has no manifest.json: not a smoothed dataset, or not finished; run its textsmooth push"):
        read_manifest("me/set")
    hub.faults[:] = [Fault("POST .*/commit/", status=413, headers={"X-Error-Message": "no room"})]
    assert "the Hub refused with 413" in said(1, "me/set")
    hub.faults[:] = [Fault("POST .*/preupload/", status=429)]
    assert "takes no more from you for now (429)" in said(1, "me/set")
    hub.faults[:] = [Fault("PUT .*/lfs/", drop_sent=10)]
    assert "broke several times" in said(1, "me/set")
    hub.faults.clear()
    debug = textsmooth("push", made, "other/set", "--progress", "none")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown_to_the_hub")
    assert "the Hub refuses your token: set HF_TOKEN, or run `hf auth login` with another" in said(1, "me/set")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token to write to the Hub: set HF_TOKEN, or run `hf auth login`" in said(1, "me/set")
    assert TOKEN not in debug.err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(StorageError) as error:
        cli.run(cli.textsmooth, "textsmooth", ["push", str(made), "other/set", "--progress", "none", "--debug"])
    import traceback

    assert TOKEN not in "".join(traceback.format_exception(error.value))
    push(made, "me/set")
    assert at_head(hub) == files_of(made)


def test_a_hub_without_xet_is_told(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    pytest.importorskip("hf_xet", reason="Xet needs the package hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(StorageError, match=r"the transfer by Xet failed \(.*404.*\): run the same command .*; or set HF_HUB_DISABLE_XET=1"):
        push(made, "me/set")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    push(made, "me/set")
    assert at_head(hub) == files_of(made)


def test_the_hub_refusing_the_card_is_told(hub: Hub, made: Path, tmp_path: Path) -> None:
    other = shutil.copytree(made, tmp_path / "other")
    card = (other / "README.md").read_text().replace("license: unknown", "license: refused")
    assert "license: refused" in card
    change_file(other, "README.md", card.encode())
    with pytest.raises(DatasetError, match=r"the Hub refuses the card of the dataset: .*license"):
        push(other, "me/set")


def test_a_gitignore_that_swallows_files_is_told(hub: Hub, made: Path, monkeypatch) -> None:
    from huggingface_hub import _commit_api

    real = _commit_api._fetch_upload_modes

    def modes(additions: Any, **more: Any) -> None:
        real(additions, **more)
        for one in additions:
            one._should_ignore = one.path_in_repo.endswith("tokenizer.json")

    monkeypatch.setattr(_commit_api, "_fetch_upload_modes", modes)
    with pytest.raises(
        StorageError, match=r"1 files are not in hf://datasets/me/set .* tokenizer/tokenizer.json: see whether a .gitignore"
    ):
        push(made, "me/set")


@pytest.mark.parametrize("name", ["train/", "plan.json"])
def test_a_damaged_source_is_told_and_leaves_no_dataset(hub: Hub, made: Path, tmp_path: Path, name: str) -> None:
    other = shutil.copytree(made, tmp_path / "other")
    path = sorted(other.glob("train/*"))[2] if name == "train/" else other / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    for place in ("me/set", str(tmp_path / "folder")):
        with pytest.raises(DatasetError, match=rf"{path.name} is not the [\d,]+ bytes and the sha256 of its manifest; fetch the dataset"):
            push(other, place)
        with pytest.raises(DatasetError, match=r"has no manifest.json"):
            read_manifest(place)
    path.unlink()
    with pytest.raises(DatasetError, match="missing"):
        push(other, "me/set")


@pytest.mark.parametrize("call", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_while_it_pushes_the_same_command_ends_it(
    hub: Hub, made: Path, textsmooth_process: Callable[..., Process], call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "\nfrom textsmooth.stages.hub import upload as hub_upload\nhub_upload.COMMIT_FILES = 3\nhub_upload.GROUP_FILES = 2\n"
    patch = f"{small}die_at('huggingface_hub.hf_api', 'HfApi', 'create_commit', {call})\n"
    assert textsmooth_process("push", made, "me/set", "--progress", "none", patch=patch, hub=hub).wait().code == -9
    assert MANIFEST not in at_head(hub)
    there = sum(len(what) for _, _, what in hub.commits)
    assert there == 4 * (call - 1) if call < 4 else there > 4
    ran = textsmooth_process("push", made, "me/set", "--progress", "none", "--json", hub=hub).wait()
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["kept_files"] == there
    assert at_head(hub) == files_of(made)
