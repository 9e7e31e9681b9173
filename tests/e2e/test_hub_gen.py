"""`textsmooth-gen` with a corpus and a teacher by name, through the real clients, against a stand-in Hub on loopback."""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers_gen import Ran, files_of, rows, shards_of, wrong
from helpers_hub import at_hub, go_offline, moved, plan_of
from hub_server import Fault, Hub

from textsmooth.pipeline import doctor, push
from textsmooth.schemas.errors import TextsmoothError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.storage.atomic import read_json

FIXED = ("--topk", "4", "--threads", "1", "--dtype", "float32", "--progress", "none")
QNLI = ("--corpus", "glue/qnli", "--teacher", "tiny/bert", "--topk", 4)
REVIEWS = ("--corpus", "tiny/reviews", "--teacher", "tiny/bert", "--topk", 4)


@pytest.fixture
def server(repositories: Path, tmp_path: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub, an empty cache, and a desk to stand at; waiting between tries is cut short."""
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.001)))
    with Hub(repositories, large=2_000) as found, at_hub(monkeypatch, tmp_path / "home", found.url):
        yield found


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json(read_json(folder / "manifest.json"), str(folder))


def ok(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    return ran.out


@pytest.mark.ci
def test_the_installed_command_with_nothing_but_variables(repositories: Path, tmp_path: Path) -> None:
    """A process of its own, HF_ENDPOINT and HF_HOME: nothing is patched. Then again without a server, from the cache."""
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")
    variables = {k: v for k, v in os.environ.items() if k not in offline} | {"HF_HOME": str(tmp_path / "home")}
    command = (Path(sys.executable).parent / "textsmooth-gen", "--corpus", "glue/qnli", "--teacher", "tiny/bert", *FIXED)

    def run(*more: str, **others: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=tmp_path, env=variables | others, capture_output=True, text=True)

    with Hub(repositories, large=2_000) as server:
        ran = run(HF_ENDPOINT=server.url)
        commits = server.commit("datasets/nyu-mll/glue"), server.commit("models/tiny/bert")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Wrote smoothed/glue-qnli-bert-k4 ")
    made = manifest_of(tmp_path / "smoothed/glue-qnli-bert-k4")
    assert (made.corpus["revision"], made.teacher["revision"]) == commits
    assert (made.corpus["name"], made.corpus["task"], made.teacher["name"]) == ("nyu-mll/glue:qnli", "glue/qnli", "tiny/bert")
    assert (made.corpus["license"], made.teacher["license"]) == ("other", "mit")
    assert {split: sum(s.rows for s in made.split(split)) for split in made.splits} == {"train": 25, "validation": 9, "test": 7}
    assert made.corpus["label_names"] == ["entailment", "not_entailment"]

    again = run(HF_ENDPOINT=server.url)  # nobody listens there any more
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("Nothing to do")


def test_only_what_is_asked_for_is_fetched(server: Hub, gen: Callable[..., Ran]) -> None:
    ok(gen(*QNLI, "--split", "validation", "--limit", 3, "--out", "out"))
    fetched = {line.rpartition("/")[2] for line in server.log if line.startswith("HEAD ")}
    assert "validation-00000-of-00001.parquet" in fetched and "model.safetensors" in fetched
    assert not any(name.startswith(("train", "test", "modeling", "pytorch")) for name in fetched)


def test_reading_in_place_makes_the_same_bytes(server: Hub, gen: Callable[..., Ran], tmp_path: Path) -> None:
    ok(gen(*REVIEWS, "--rows-per-shard", 13, "--streaming", "always", "--out", "streamed"))
    assert not any((tmp_path / "home/hub").glob("datasets--*/snapshots/*/single/*"))
    ok(gen(*REVIEWS, "--rows-per-shard", 13, "--streaming", "never", "--out", "fetched"))
    assert manifest_of(Path("streamed")).dataset == manifest_of(Path("fetched")).dataset
    assert shards_of(Path("streamed")) == shards_of(Path("fetched")) != {}


def test_credentials_are_nowhere_in_what_is_written_or_printed(
    server: Hub, gen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = {"HF_TOKEN": "hf_N0body5hallSee", "AWS_ACCESS_KEY_ID": "AKIAN0B0DY", "AWS_SECRET_ACCESS_KEY": "sh4ll/see/th1s"}
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    server.tokens.add(secrets["HF_TOKEN"])
    server.private["datasets/tiny/reviews"] = {secrets["HF_TOKEN"]}  # nobody else can read it
    runs = [
        gen(*REVIEWS, "--out", "out"),
        gen(*REVIEWS, "--corpus-revision", "nowhere", "--out", "other"),
        gen("--corpus", "tiny/missing", "--teacher", "tiny/bert", "--out", "other"),
        gen("--corpus", "s3://nobody/x.jsonl", "--teacher", "tiny/bert", "--out", "other"),
    ]
    with pytest.raises(UsageError) as caught:
        gen(*REVIEWS, "--corpus-revision", "nowhere", "--out", "other", "--debug")
    assert runs[0].code == 0, runs[0].err
    with pytest.raises(TextsmoothError) as refused:
        push("out", "me/set")  # that server takes nothing
    tracebacks = [line for error in (caught.value, refused.value) for line in traceback.format_exception(error)]
    printed = "".join([*(ran.out + ran.err for ran in runs), *tracebacks, *map(repr, doctor(trial=False)), caplog.text])
    written = b"".join(files_of(Path("out")).values())
    for secret in secrets.values():
        assert secret not in printed and secret.encode() not in written


def test_a_folder_of_the_same_files_makes_the_same_shards(server: Hub, gen: Callable[..., Ran], repositories: Path) -> None:
    ok(gen(*QNLI, "--out", "hub"))
    ok(gen("--corpus", f"{repositories}/datasets/nyu-mll/glue:qnli", "--teacher", "tiny/bert", "--topk", 4, "--out", "folder"))
    assert shards_of(Path("hub")) == shards_of(Path("folder"))


def test_what_lies_here_wins_over_the_hub(server: Hub, gen: Callable[..., Ran], repositories: Path) -> None:
    Path("tiny").mkdir()
    for name in ("datasets/tiny/bare", "models/tiny/bert"):
        (Path("tiny") / Path(name).name).symlink_to(repositories / name)
    ok(gen("--corpus", "tiny/bare", "--teacher", "tiny/bert", "--topk", 4, "--split", "test", "--out", "out"))
    assert server.log == []
    assert "revision" not in manifest_of(Path("out")).corpus
    line = wrong(gen, Path.cwd(), 2, "--corpus", "tiny/bare", "--corpus-revision", "main", "--out", "other")
    assert "on this machine" in line and "--corpus-revision" in line


def test_a_branch_that_moves_leaves_a_finished_dataset_alone(
    server: Hub, gen: Callable[..., Ran], repositories: Path, tmp_path: Path
) -> None:
    old = repositories / "datasets/tiny/reviews"
    ok(gen(*REVIEWS, "--out", "out"))
    before = files_of(Path("out"))
    server.revisions["datasets/tiny/reviews"] = {"main": moved(old, tmp_path / "new", "single/train-00001.parquet", rows(5, 9))}
    server.log.clear()
    assert ok(gen(*REVIEWS, "--out", "out")).startswith("Nothing to do")
    assert files_of(Path("out")) == before
    assert server.log == []  # the plan has the commits
    line = wrong(gen, Path.cwd(), 1, *REVIEWS, "--corpus-revision", "main", "--out", "out")
    assert "revision" in line and server.commit("datasets/tiny/reviews")[:12] in line
    ok(gen(*REVIEWS, "--out", "new"))
    assert manifest_of(Path("new")).corpus["revision"] == server.commit("datasets/tiny/reviews")


def test_a_run_that_goes_on_stays_at_its_commit(server: Hub, gen: Callable[..., Ran], repositories: Path, tmp_path: Path) -> None:
    asked = (*REVIEWS, "--rows-per-shard", 20)
    ok(gen(*asked, "--out", "whole"))
    commit = server.commit("datasets/tiny/reviews")
    ok(gen(*asked, "--out", "out"))
    for path in (Path("out/manifest.json"), Path("out/receipts.jsonl"), *Path("out/train").iterdir()):
        path.unlink()  # as if the run had just been planned
    new = moved(repositories / "datasets/tiny/reviews", tmp_path / "new", "single/train-00001.parquet", rows(5, 9))
    server.revisions["datasets/tiny/reviews"] = {"main": new}
    ok(gen(*asked, "--out", "out"))
    assert plan_of(Path("out"))["corpus"]["revision"] == commit != server.commit("datasets/tiny/reviews")
    assert shards_of(Path("out")) == shards_of(Path("whole"))
    assert manifest_of(Path("out")).dataset == manifest_of(Path("whole")).dataset


def test_a_revision_is_kept_as_its_commit(server: Hub, gen: Callable[..., Ran], repositories: Path, tmp_path: Path) -> None:
    old = repositories / "datasets/tiny/reviews"
    new = moved(old, tmp_path / "new", "single/train-00001.parquet", rows(5, 9))
    server.revisions["datasets/tiny/reviews"] = {"main": new, "v1": old}
    ok(gen(*REVIEWS, "--corpus-revision", "v1", "--teacher-revision", "main", "--out", "out"))
    made = manifest_of(Path("out"))
    assert made.corpus["revision"] == server.commit("datasets/tiny/reviews", "v1")
    assert made.teacher["revision"] == server.commit("models/tiny/bert")


BAD = {
    "no dataset": (2, ("--corpus", "tiny/nothing"), "no dataset tiny/nothing on this machine or on the Hub, unless it is private", {}),
    "no dataset, with a token": (2, ("--corpus", "tiny/nothing"), "no dataset tiny/nothing", {"token": "hf_good"}),
    "no model": (2, ("--teacher", "tiny/nothing"), "no model tiny/nothing on this machine or on the Hub, unless it is private", {}),
    "no owner": (2, ("--teacher", "nothing"), "write it as owner/name", {}),
    "no revision of a dataset": (2, ("--corpus-revision", "v9"), "dataset nyu-mll/glue has no revision 'v9': give --corpus-revision", {}),
    "no revision of a model": (2, ("--teacher-revision", "v9"), "model tiny/bert has no revision 'v9': give --teacher-revision", {}),
    "no config": (2, ("--corpus", "nyu-mll/glue:qqp"), "no config 'qqp'; give one of qnli, wnli: --corpus nyu-mll/glue:qnli", {}),
    "which config": (2, ("--corpus", "nyu-mll/glue"), "several configs; give one of qnli, wnli: --corpus nyu-mll/glue:qnli", {}),
    "no split": (2, ("--split", "dev"), "has no split 'dev'; it has train, validation, test", {}),
    "a file that is not there": (2, ("--corpus", "reviews/foo.jsonl"), "no corpus 'reviews/foo.jsonl': there is no such file here", {}),
    "a folder that is not there": (2, ("--corpus", "./reviews/foo"), "./reviews/foo", {}),
    "a model folder that is not there": (2, ("--teacher", "./bert"), "./bert", {}),
    "a script": (2, ("--corpus", "tiny/script"), "is a Python script, which is never run", {}),
    "pictures": (2, ("--corpus", "tiny/pictures"), "a.png: its format is not one of", {}),
    "pickled weights": (1, ("--teacher", "tiny/pickled"), "has no model.safetensors (only pytorch_model.bin, which is not read)", {}),
    "private": (2, (), "no dataset nyu-mll/glue on this machine or on the Hub, unless it is private", {"private": "datasets/nyu-mll/glue"}),
    "gated dataset": (1, (), "dataset nyu-mll/glue is gated: ask for access at ", {"gated": "datasets/nyu-mll/glue"}),
    "gated, not admitted": (1, (), "your account may not read it yet", {"gated": "datasets/nyu-mll/glue", "token": "hf_good"}),
    "gated model": (1, (), "model tiny/bert is gated: ask for access at ", {"gated": "models/tiny/bert"}),
    "bad token": (1, (), "the Hub refuses your token for dataset nyu-mll/glue: renew it (HF_TOKEN", {"token": "hf_expired"}),
    "rate limit": (1, (), "limits the requests of this machine (429)", {"fault": Fault(".", status=429, headers={"Retry-After": "2"})}),
    "rate limit at a file": (1, (), "limits the requests of this machine (429)", {"fault": Fault("/resolve/.*parquet", status=429)}),
    "500": (1, (), "the Hub failed with 500 while reading dataset nyu-mll/glue, several times", {"fault": Fault("/api/", status=500)}),
    "500 at a file": (1, (), "the Hub failed with 500 while reading", {"fault": Fault("/resolve/.*train.*parquet", status=500)}),
    "503 at a model": (1, (), "the Hub failed with 503 while reading model tiny/bert", {"fault": Fault("model.safetensors", status=503)}),
    "503 at storage": (1, (), "the Hub failed with 503 while reading", {"fault": Fault("/cdn/", status=503)}),
    "403": (1, (), "the Hub refused with 403 while reading dataset nyu-mll/glue", {"fault": Fault("/api/datasets", status=403)}),
    "broken download": (1, (), "broke several times while reading", {"fault": Fault("/cdn/", drop_after=100)}),
    "tree": (1, (), "the Hub failed with 502 while reading dataset nyu-mll/glue", {"fault": Fault("/api/datasets/.*/tree/", status=502)}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_line_for_what_goes_wrong(case: str, server: Hub, gen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    code, args, words, how = BAD[case]
    if "token" in how:
        monkeypatch.setenv("HF_TOKEN", how["token"])
    for name in ("private", "gated"):
        if name in how:
            getattr(server, name)[how[name]] = {"hf_admitted"}
    server.faults = [how["fault"]] if "fault" in how else []
    asked = {**dict(zip(QNLI[:4:2], QNLI[1:4:2], strict=True)), **dict(zip(args[::2], args[1::2], strict=True)), "--out": "out"}
    line = wrong(gen, Path.cwd(), code, *(word for pair in asked.items() for word in pair))
    assert words in line
    assert "HTTPStatusError" not in line and "Request ID" not in line


def test_who_is_admitted_gets_in(server: Hub, gen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_admitted")
    server.gated["datasets/nyu-mll/glue"] = server.private["models/tiny/bert"] = {"hf_admitted"}
    ok(gen(*QNLI, "--split", "test", "--out", "out"))


def test_offline_with_nothing_cached(server: Hub, gen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    line = wrong(gen, Path.cwd(), 1, *QNLI, "--out", "out")
    assert "HF_HUB_OFFLINE is set, and dataset nyu-mll/glue with config 'qnli' is neither on this machine nor in the cache" in line
    assert "--corpus demo or local files" in line
    line = wrong(gen, Path.cwd(), 1, "--corpus", "good.jsonl", "--teacher", "tiny/bert", "--out", "out")
    assert "--teacher demo or a local folder" in line
    assert server.log == []


def test_no_connection_with_nothing_cached(server: Hub, gen: Callable[..., Ran]) -> None:
    server.shutdown()
    server.server_close()
    line = wrong(gen, Path.cwd(), 1, *QNLI, "--out", "out")
    assert f"no connection to {server.url} (" in line and "--corpus demo or local files" in line


def test_offline_another_split_is_named_not_lost(server: Hub, gen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    ok(gen(*QNLI, "--split", "test", "--out", "out"))
    go_offline(monkeypatch)
    assert ok(gen(*QNLI, "--split", "test", "--out", "out")).startswith("Nothing to do")
    ok(gen(*QNLI, "--split", "test", "--out", "again"))
    line = wrong(gen, Path.cwd(), 1, *QNLI, "--out", "all")
    assert "qnli/train-00000-of-00001.parquet is not in the cache: run once with a connection" in line
