"""How a dataset on the Hub is named, what is said when it is read from there, and when it cannot be; the table of errors in the docs."""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_gen import Ran, files_of
from helpers_hub import go_offline
from helpers_share import at_head, pull_to
from hub_server import Fault, Hub
from huggingface_hub import close_session, constants

from textsmooth.pipeline.share.pull import pull
from textsmooth.pipeline.share.push import push
from textsmooth.pipeline.training.places import out_folder
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.open import dataset_name, hub_uri, open_folder, read_manifest
from textsmooth.stages.hub.folder import HubFolder
from textsmooth.stages.storage.local import LocalFolder
from textsmooth.stages.storage.transfer import Reader

DOC = Path(__file__).resolve().parents[2] / "docs/sharing.md"
HUB = "https://huggingface.co/datasets/me/set"


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        (HUB, "hf://datasets/me/set"),
        (f"{HUB}/", "hf://datasets/me/set"),
        (f"{HUB}/tree/main?library=datasets#files", "hf://datasets/me/set"),
        (f"{HUB}/tree/v1", "hf://datasets/me/set@v1"),
        (f"{HUB}/tree/my%2Fdraft", "hf://datasets/me/set@my%2Fdraft"),
        (f"{HUB}/tree/refs%2Fpr%2F1/sets/one", "hf://datasets/me/set@refs%2Fpr%2F1/sets/one"),
        (f"{HUB}/tree/refs/pr/1", "hf://datasets/me/set@refs/pr/1"),
        ("{hub}/datasets/me/set/tree/main/sets", "hf://datasets/me/set@main/sets"),
        (f"{HUB}/tree/main/my%20sets/one", "hf://datasets/me/set@main/my sets/one"),
    ],
)
def test_a_page_of_the_hub_names_its_dataset(hub: Hub, address: str, uri: str) -> None:
    assert hub_uri(address.format(hub=hub.url)) == uri


@pytest.mark.parametrize(
    "address",
    [
        f"{HUB}/viewer",
        f"{HUB}/blob/main/x",
        "https://huggingface.co/me/set",
        "https://other.example/datasets/me/set",
        "http://",
        "http://[x",
    ],
)
def test_another_address_is_told_in_one_line(hub: Hub, made: Path, textsmooth: Callable[..., Ran], address: str) -> None:
    said = f"{address} is not the page of a dataset on the Hub: give {hub.url}/datasets/owner/name, with /tree/REVISION where needed\n"
    for args in (["inspect", address], ["pull", address], ["push", made, address]):
        ran = textsmooth(*args)
        assert ran.code == 2 and ran.err == f"textsmooth {args[0]}: {said}"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (f"{HUB}/tree/main?library=datasets#files", "set"),
        ("hf://datasets/me/set@v1", "set"),
        ("me/set", "set"),
        ("s3://bucket/a@b/set", "set"),
        ("smoothed/a@b/", "a@b"),
        (Path("me/set"), "set"),
    ],
)
def test_what_is_made_from_a_dataset_is_called_as_it_is(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name(place) == name
    if isinstance(place, str):
        assert out_folder(TrainOptions(dataset=place, student="student")).name.startswith(f"{name}-")


def test_a_folder_with_a_space_is_read_by_the_address_of_its_page(hub: Hub, made: Path) -> None:
    folder = hub.root / "datasets/me/several"
    shutil.copytree(made, folder / "my sets")
    found = open_folder(f"{hub.url}/datasets/me/several/tree/main/my%20sets", reading=True)
    assert read_manifest(found).dataset == read_manifest(made).dataset


def test_push_and_pull_take_the_address_of_a_page(hub: Hub, made: Path, tmp_path: Path) -> None:
    push(made, HUB)
    assert at_head(hub) == files_of(made)
    assert push(made, f"{hub.url}/datasets/me/set/tree/main").already
    with pytest.raises(UsageError, match=r"me/set@v1: a dataset is pushed to owner/name .*, to its branch main"):
        push(made, f"{HUB}/tree/v1")
    commit = hub.commit("datasets/me/set")
    for source, revision in ((f"{HUB}/tree/{commit}", None), (HUB, commit)):
        assert pull(source, tmp_path / str(revision), revision=revision).dataset == read_manifest(made).dataset
    with pytest.raises(UsageError, match=f"--revision v2: {HUB}/tree/v1 already names a revision"):
        pull(f"{HUB}/tree/v1", tmp_path / "x", revision="v2")


def test_what_is_read_from_the_hub_is_told_once(
    hub: Hub, made: Path, textsmooth: Callable[..., Ran], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(made, "me/set")
    commit = hub.commit("datasets/me/set")
    line = f"reading me/set (revision {commit[:7]}) from {hub.url}\n"
    for args in (["inspect", "me/set"], ["diff", "me/set", "me/set"], ["report", "me/set", "--out", "page.html"], ["stats", "me/set"]):
        assert textsmooth(*args).err == line, args
    stats = textsmooth("stats", "me/set", "--json")
    assert stats.err == line and json.loads(stats.out)
    for progress in ("auto", "json"):  # stderr is no terminal here
        ran = textsmooth("pull", "me/set", "out", "--json", "--progress", progress)
        told = [json.loads(line) for line in ran.err.splitlines()]
        assert told[0] == {"event": "reading", "name": "me/set", "revision": commit, "from": hub.url} and json.loads(ran.out)
    assert line in textsmooth("verify", "me/set", "--progress", "rich").err
    for quiet in (["verify", "me/set", "--progress", "none"], ["inspect", "out"], ["inspect", made]):
        assert textsmooth(*quiet).err == ""
    go_offline(monkeypatch)
    assert textsmooth("inspect", "me/set").err == line.replace(hub.url, "the cache: HF_HUB_OFFLINE is set")
    read_manifest("me/set")  # in Python nothing is said
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def waited(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def test_without_a_connection_the_error_comes_at_once_and_names_both(
    hub: Hub, made: Path, textsmooth: Callable[..., Ran], waited: list[float]
) -> None:
    push(made, "me/set")
    read = textsmooth("inspect", "me/set")
    hub.shutdown()
    hub.server_close()
    close_session()  # and with it the connections that are open
    ran = textsmooth("inspect", "outt/sst2")
    assert ran.code == 1 and ran.err.startswith(
        f"textsmooth inspect: no folder outt/sst2 here; as a name on the Hub: no connection to {hub.url} ("
    )
    ran = textsmooth("push", made, "outt/sst2")
    assert ran.code == 1 and f"no connection to {hub.url}" in ran.err and ran.err.endswith("; for a folder write ./outt/sst2\n")
    assert "for a folder" not in textsmooth("push", made, "hf://datasets/outt/sst2").err
    cached = textsmooth("inspect", "me/set")
    assert cached.out == read.out and f"from the cache: no connection to {hub.url}" in cached.err
    assert sum(waited) < 3


def test_a_hub_that_fails_leaves_the_cache_to_read(hub: Hub, made: Path) -> None:
    push(made, "me/set")
    assert read_manifest("me/set")
    hub.faults.append(Fault("GET /api/", status=503))
    hub.log.clear()
    found = HubFolder("hf://datasets/me/set")
    assert found.found["from"] == f"the cache: {hub.url} failed with 503" and len(hub.log) == 1
    assert read_manifest(found).dataset == read_manifest(made).dataset
    with pytest.raises(DatasetError, match="the Hub failed with 503"):
        read_manifest("me/other")


def test_a_hub_that_does_not_answer_is_asked_once(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(made, "me/set")
    assert read_manifest("me/set")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.faults.append(Fault("GET /api/", delay_s=0.5, times=1))
    hub.log.clear()
    assert HubFolder("hf://datasets/me/set").found["from"] == f"the cache: no answer from {hub.url} (ReadTimeout)"
    assert len(hub.log) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(401, "the Hub refuses your token"), (403, "the Hub refused with 403"), (404, "the Hub refused with 404")]
)
def test_a_hub_that_says_no_is_not_passed_over(hub: Hub, made: Path, status: int, said: str) -> None:
    push(made, "me/set")
    assert read_manifest("me/set")
    hub.faults.append(Fault("GET /api/", status=status))
    with pytest.raises(DatasetError, match=said):
        read_manifest("me/set")


def test_a_repository_that_was_deleted_is_not_read_from_the_cache(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    push(made, "me/set")
    assert read_manifest("me/set")
    del hub.revisions["datasets/me/set"]
    shutil.rmtree(hub.root / "datasets/me/set", ignore_errors=True)
    ran = textsmooth("inspect", "me/set")
    assert ran.code == 2 and "no dataset me/set on this machine or on the Hub, unless it is private" in ran.err and ran.out == ""


def test_offline_a_file_that_was_never_fetched_is_not_called_damaged(
    hub: Hub, made: Path, textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(made, "me/set")
    read_manifest("me/set")
    go_offline(monkeypatch)
    for args in (["inspect", "me/set"], ["report", "me/set", "--out", "page.html"], ["pull", "me/set", "out", "--progress", "none"]):
        ran = textsmooth(*args)
        assert ran.code == 1 and "HF_HUB_OFFLINE is set, and hf://datasets/me/set/" in ran.err.splitlines()[-1], ran.err
        assert "is not in the cache: run once with a connection" in ran.err and "damaged" not in ran.err


def test_revisions_that_there_are_are_named(hub: Hub, made: Path) -> None:
    push(made, "me/set")
    folder = hub.branches("datasets/me/set")["main"]
    hub.revisions["datasets/me/set"] = {"main": folder, **{f"v{number}": folder for number in range(9)}}
    with pytest.raises(UsageError, match=r"me/set has no revision 'v9'; it has main, v0, .*, v6, …; a commit is named by all 40"):
        pull("me/set", "out", revision="v9")
    assert open_folder("hf://datasets/me/set@v8", reading=True).exists()


def test_a_place_where_nothing_can_be_is_told(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    push(made, "me/set")
    Path("file").write_text("")
    for source in ("me/set", made):
        for command, place in (("pull", "/proc/x"), ("push", "/proc/x")):
            ran = textsmooth(command, source, place, "--progress", "none")
            assert ran.code == 1
            assert ran.err == f"textsmooth {command}: cannot use the folder /proc/x (No such file or directory): name another place\n"
        assert textsmooth("pull", source, "file/x", "--progress", "none").err == "textsmooth pull: file is a file; name a folder\n"


def test_made_public_is_said_and_notes_once(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    for place, there in (("me/set", True), ("me/other", False)):
        if there:
            push(made, place)
        ran = textsmooth("push", made, place, "--public", "--progress", "none")
        assert ("made public: everyone can read it now; all files were already there" in ran.out) is there
        assert "nothing to do" not in ran.out and (ran.out + ran.err).count("the dataset contains the corpus text") == 1
        again = textsmooth("push", made, place, "--public", "--progress", "none")
        assert "nothing to do: it is already there" in again.out and "made public" not in again.out
    told = json.loads(textsmooth("push", made, "me/set", "--public", "--json", "--progress", "none").out)
    assert told["public"] is True and told["made_public"] is False and told["notes"]


def test_the_docs_have_the_lines_that_are_printed(
    hub: Hub, made: Path, smoothed: Path, textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(made, "me/set")
    push(made, "me/open", public=True)
    push(smoothed, "me/another")
    for folder in (hub.root / "datasets/me/unfinished", Path("outputs/mine"), Path("home")):
        folder.mkdir(parents=True)
        (folder / "letter.txt").write_text("mine")
    pull(smoothed, "there")
    pull(made, "few", shards="1")
    pull(made, "two", shards="2")
    shard = next(pull_to(made, Path("flipped")).rglob("*.arrow"))
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    commands = [
        ["inspect", "they/set"],
        ["inspect", "outputs/mime"],
        ["inspect", "https://huggingface.co/datasets/me/set/viewer"],
        ["pull", "me/set", "--revision", "v9"],
        ["inspect", "me/unfinished"],
        ["pull", made, "new", "--shards", "0-9"],
        ["pull", made, "home"],
        ["pull", made, "there"],
        ["pull", "two", "few"],
        ["pull", made, "/proc/x"],
        ["push", "flipped", "me/new"],
        ["push", made, "me/open"],
        ["push", made, "me/another", "--public", "--overwrite"],
        ["push", made, "other/set"],
        ["push", made, "outputs/new"],
    ]
    said = [textsmooth(*words, *(["--progress", "none"] if words[0] != "inspect" else [])) for words in commands]
    hub.faults.append(Fault("(GET|HEAD) /(api|datasets)/", status=503))
    said.append(textsmooth("pull", "me/another", "--progress", "none"))
    monkeypatch.delenv("HF_TOKEN")
    said.append(textsmooth("push", made, "me/set", "--progress", "none"))
    go_offline(monkeypatch)
    said.append(textsmooth("inspect", "they/set"))
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \| (\d) \|$", DOC.read_text(), flags=re.MULTILINE)
    lines = [(ran.err.splitlines()[-1].partition(": ")[2], ran.code) for ran in said]
    for (text, code), (line, returned) in zip(rows, lines, strict=True):
        pattern = ".*".join(map(re.escape, text.split("…")))
        assert (bool(re.fullmatch(pattern, line)), int(code)) == (True, returned), (text, line, returned)


def test_a_pull_does_not_hide_the_name_it_came_by(hub: Hub, made: Path, textsmooth: Callable[..., Ran]) -> None:
    """Where a folder me lies, me/set is no name on the Hub: the same command could not run again."""
    push(made, "me/set")
    ran = textsmooth("pull", "me/set", "me/copy")
    assert (ran.code, ran.out) == (2, "") and not Path("me").exists()
    assert "me/copy would create a folder me, and me/set would then mean that folder, not the Hub: choose another folder" in ran.err
    assert textsmooth("pull", f"{hub.url}/datasets/me/set", "me/copy").code == 0


@pytest.mark.parametrize("name", ["me/-x", "me/bad name"])
def test_a_name_that_can_be_none_makes_no_folder(hub: Hub, made: Path, textsmooth: Callable[..., Ran], name: str) -> None:
    ran = textsmooth("push", made, name)
    assert ran.code == 2 and not Path("me").exists()
    assert f"{name!r} is not a valid name on the Hub, and there is no folder me: write './{name}' for a folder" in ran.err
    assert textsmooth("push", made, f"./{name}").code == 0


@pytest.mark.parametrize("args", [("verify", ""), ("pull", "{made}", ""), ("push", "{made}", "")])
def test_a_place_that_is_empty_is_refused(made: Path, textsmooth: Callable[..., Ran], args: tuple[str, ...]) -> None:
    ran = textsmooth(*(arg.format(made=made) for arg in args))
    assert ran.code == 2 and "a place is named by nothing: '' (a shell variable that is not set?)" in ran.err


@pytest.mark.parametrize("name", ["me/set@v9", "huggingface.co/datasets/me/set", "me/set/more"])
def test_a_folder_that_is_not_here_may_be_meant_on_the_hub(textsmooth: Callable[..., Ran], name: str) -> None:
    ran = textsmooth("inspect", name)
    assert ran.code == 2 and "on the Hub one is owner/name, hf://datasets/owner/name@revision, or its page" in ran.err


def test_pull_does_not_send(made: Path, textsmooth: Callable[..., Ran]) -> None:
    ran = textsmooth("pull", made, "hf://datasets/me/set")
    assert ran.code == 2 and "use textsmooth push" in ran.err


def test_a_full_disk_is_no_fault_of_the_source(made: Path) -> None:
    def full(block: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    entry = read_manifest(made).files[0]
    with pytest.raises(OSError, match="No space left") as caught:
        Reader(source=LocalFolder(made)).write_to(entry, full)
    assert type(caught.value) is OSError
