"""The Hub: one commit per name, files fetched once or read by ranges, and nothing lost to a bad connection or a cache with holes."""

import io
import json
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers_gen import files_of, rows
from helpers_hub import at_hub, bodies, go_offline, moved
from hub_server import Fault, Hub
from huggingface_hub import close_session

from textsmooth.schemas.errors import CorpusError, TeacherError, UsageError
from textsmooth.stages.corpus import hub as hub_module
from textsmooth.stages.corpus.csv import Csv
from textsmooth.stages.corpus.hub import hub_corpus
from textsmooth.stages.corpus.source_file import SourceFile
from textsmooth.stages.hub import errors as hub_errors
from textsmooth.stages.hub import file as hub_files
from textsmooth.stages.hub.file import HubFile
from textsmooth.stages.hub.model import fetch_model

BERT = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def server(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub, and an empty cache; waiting between tries is cut short."""
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.001)))
    with Hub(repositories, large=2_000, page=7) as found, at_hub(monkeypatch, tmp_path / "home", found.url):
        yield found


def remote(file: SourceFile) -> HubFile:
    assert isinstance(file.remote, HubFile)
    return file.remote


def content(file: SourceFile, count: int = -1) -> bytes:
    with file.open() as read:
        return read.read(count)


def first(**how: Any) -> SourceFile:
    return hub_corpus("tiny/reviews", None, **how).splits["train"][0]


def test_a_dataset_is_one_commit_with_what_it_says_of_itself(server: Hub) -> None:
    found = hub_corpus("nyu-mll/glue", "qnli")
    assert found.name == "nyu-mll/glue:qnli"
    assert found.revision == server.commit("datasets/nyu-mll/glue")
    assert {split: [f.name for f in files] for split, files in found.splits.items()} == {
        split: [f"qnli/{split}-00000-of-00001.parquet"] for split in ("train", "validation", "test")
    }
    assert found.with_class_names().class_names == {"label": ("entailment", "not_entailment")}
    assert found.license == "other"


def test_no_data_is_fetched_before_it_is_needed(server: Hub) -> None:
    found = hub_corpus("tiny/reviews", None, streaming="never")
    asked = bodies(server.log)
    assert [line for line in asked if "bytes=" not in line and "README.md" not in line] == []
    assert not any("validation" in line or "00001" in line for line in asked)
    server.log.clear()
    assert pq.read_table(found.splits["validation"][0].local()).num_rows == 9
    assert not any("train" in line for line in server.log)


def test_a_fetched_file_is_asked_for_once(server: Hub, repositories: Path) -> None:
    file = first(streaming="never")
    assert file.local().read_bytes() == (repositories / "datasets/tiny/reviews/single/train-00000.parquet").read_bytes()
    server.log.clear()
    assert file.local().is_file() and content(file, 4) == b"PAR1"
    assert server.log == []


def test_the_default_config_and_one_with_a_delimiter(server: Hub) -> None:
    assert [f.name for f in hub_corpus("tiny/reviews", None).splits["train"]] == [
        "single/train-00000.parquet",
        "single/train-00001.parquet",
    ]
    table = hub_corpus("tiny/tables", None)
    assert table.splits["train"][0].format == Csv(delimiter=";")
    assert table.class_names == {"label": ("bad", "good")}
    assert hub_corpus("tiny/tables", None) == table


def test_a_repository_without_a_readme(server: Hub) -> None:
    assert {split: [f.name for f in files] for split, files in hub_corpus("tiny/bare", None).splits.items()} == {
        "train": ["train.jsonl"],
        "test": ["test.jsonl"],
    }


@pytest.mark.parametrize(
    ("repo", "config", "words"),
    [
        ("nyu-mll/glue", None, "several configs; give one of qnli, wnli: --corpus nyu-mll/glue:qnli"),
        ("nyu-mll/glue", "qqp", "no config 'qqp'; give one of qnli, wnli"),
        ("tiny/reviews", "table", "table/all.csv is CSV, and `datasets` uses one format for all configs, here another one"),
        ("tiny/bare", "x", "no config 'x', only 'default'"),
        ("tiny/script", None, "is a Python script, which is never run: .* refs/convert/parquet"),
        ("tiny/pictures", None, "cannot read .*a.png: its format is not one of .*refs/convert/parquet"),
        ("tiny/outside", None, "cannot read dataset tiny/outside: Data files don't belong to tiny/outside"),
        ("tiny/elsewhere", None, "Data files don't belong to tiny/elsewhere"),
        ("tiny/copy", None, "several configs; give one of one, two"),
        ("tiny/nothing", None, "no dataset tiny/nothing on this machine or on the Hub, unless it is private"),
    ],
)
def test_what_is_not_there(server: Hub, repo: str, config: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        hub_corpus(repo, config)
    assert "\n" not in str(caught.value)


def test_the_parquet_copy_of_the_hub_has_configs_and_splits_in_its_paths(server: Hub, repositories: Path) -> None:
    found = hub_corpus("tiny/copy", "two")
    assert [f.name for f in found.splits["train"]] == ["two/train/0000.parquet", "two/train/0001.parquet"]
    with pytest.raises(CorpusError, match=r"only a part of its rows"):
        hub_corpus("tiny/partial", "one")
    server.revisions["datasets/tiny/script"] = {
        "main": repositories / "datasets/tiny/script",
        "refs/convert/parquet": repositories / "datasets/tiny/copy",
    }
    assert hub_corpus("tiny/script", "one", revision="refs/convert/parquet").splits == found.splits | {
        "train": tuple(hub_corpus("tiny/script", "one", revision="refs/convert/parquet").splits["train"])
    }


def test_a_branch_a_tag_a_commit_and_a_pull_request(server: Hub, repositories: Path, tmp_path: Path) -> None:
    old = repositories / "datasets/tiny/reviews"
    new = moved(old, tmp_path / "new", "single/train-00001.parquet", rows(3, 9))
    server.revisions["datasets/tiny/reviews"] = {"main": old, "v1": old, "refs/pr/1": new}
    before = hub_corpus("tiny/reviews", None)
    assert hub_corpus("tiny/reviews", None, revision="v1").revision == before.revision
    proposed = hub_corpus("tiny/reviews", None, revision="refs/pr/1")
    assert proposed.revision == server.commit("datasets/tiny/reviews", "refs/pr/1") != before.revision
    assert proposed.splits["train"][0].stat() == before.splits["train"][0].stat()
    assert proposed.splits["train"][1].stat() != before.splits["train"][1].stat()
    server.revisions["datasets/tiny/reviews"]["main"] = new
    assert hub_corpus("tiny/reviews", None).revision == proposed.revision
    server.log.clear()
    assert hub_corpus("tiny/reviews", None, revision=before.revision) == before
    assert server.log == []
    with pytest.raises(UsageError, match=r"no revision 'v2'"):
        hub_corpus("tiny/reviews", None, revision="v2")


def test_ranges_are_the_file(server: Hub, repositories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_files, "RANGE_BYTES", 2048)
    wanted = (repositories / "datasets/tiny/reviews/single/train-00000.parquet").read_bytes()
    file = first(streaming="always")
    assert file.streamed and remote(file).size == len(wanted) > 2_000
    server.log.clear()
    rng = random.Random(0)
    with file.open() as read:
        assert read.seek(0, io.SEEK_END) == len(wanted) and read.read(5) == b""
        for _ in range(10):
            at, count = rng.randrange(len(wanted)), rng.randrange(1, 5000)
            read.seek(at)
            assert read.read(count) == wanted[at : at + count]
        read.seek(0)
        assert read.read() == wanted
    assert all("bytes=" in line for line in bodies(server.log))
    assert pq.read_table(io.BytesIO(content(file))).equals(pq.read_table(io.BytesIO(wanted)))
    assert remote(file).cached is None


def test_auto_reads_in_place_what_is_too_large_to_fetch(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not first(streaming="auto").streamed
    sizes = [remote(f).size for f in hub_corpus("tiny/reviews", None).files]
    monkeypatch.setattr(hub_module, "STREAM_BYTES", sum(sizes) - 1)
    assert first(streaming="auto").streamed
    assert not first(streaming="never").streamed
    first(streaming="never").local().read_bytes()
    assert not any(f.streamed for f in hub_corpus("tiny/reviews", None).files)  # what is left to fetch is less now


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("streaming", ["never", "always"])
def test_a_connection_that_breaks_costs_nothing(server: Hub, repositories: Path, streaming: str, reset: bool) -> None:
    wanted = (repositories / "datasets/tiny/reviews/single/train-00000.parquet").read_bytes()
    file = first(streaming=streaming)
    server.log.clear()
    server.faults = [Fault(r"GET /cdn/", drop_after=1500, reset=reset, times=2)]
    assert content(file) == wanted
    assert len([line for line in server.log if line.startswith("GET /cdn/")]) == 3


def test_a_connection_that_always_breaks_leaves_no_short_file(server: Hub, tmp_path: Path) -> None:
    file = first(streaming="never")
    server.faults = [Fault(r"GET /cdn/", drop_after=0)]
    with pytest.raises(CorpusError, match=r"broke several times while reading dataset tiny/reviews"):
        content(file)
    assert remote(file).cached is None
    server.faults = []
    assert pq.read_table(file.local()).num_rows == 31


def test_a_server_without_ranges_is_told_not_read_as_if_it_had_them(server: Hub) -> None:
    file = first(streaming="always")
    server.faults = [Fault(r"GET /cdn/", whole=True)]
    with pytest.raises(CorpusError, match=r"cannot be read by ranges .*--streaming never"):
        content(file, 10)


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = first(streaming="never").local()
    whole = path.read_bytes()
    path.resolve().write_bytes(whole[:100])
    assert first(streaming="never").local().read_bytes() == whole
    path.resolve().write_bytes(whole[:100])
    go_offline(monkeypatch)
    with pytest.raises(CorpusError, match=r"HF_HUB_OFFLINE is set, and hf://.*train-00000.parquet is not in the cache"):
        content(first(streaming="never"))


def test_the_token_stays_with_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert content(first(streaming="always"), 4) == b"PAR1"  # the storage host answers 400 to a token
    assert first(streaming="never").local().is_file()


@pytest.mark.parametrize("how", ["offline", "refused"])
def test_without_a_connection_what_was_read_is_there_again(server: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    before = hub_corpus("tiny/reviews", None, revision="main")
    before.splits["train"][0].local().read_bytes()
    folder, commit = fetch_model("tiny/bert")
    if how == "offline":
        go_offline(monkeypatch)
    else:
        server.shutdown()
        server.server_close()
        close_session()  # and with it the connections that are open
    assert hub_corpus("tiny/reviews", None, revision="main") == before
    assert hub_corpus("tiny/reviews", None, revision=before.revision) == before
    assert fetch_model("tiny/bert") == fetch_model("tiny/bert", revision=commit) == (folder, commit)
    assert pq.read_table(before.splits["train"][0].local()).num_rows == 31
    # The snapshot folder has one of two files now: the listing knows better.
    assert [f.name for f in before.splits["train"]] == ["single/train-00000.parquet", "single/train-00001.parquet"]
    with pytest.raises(CorpusError, match=r"train-00001.parquet is not in the cache: run once with a connection"):
        content(before.splits["train"][1])
    with pytest.raises(CorpusError, match=r"dataset tiny/bare is neither on this machine nor in the cache: .*--corpus demo or local files"):
        hub_corpus("tiny/bare", None)
    with pytest.raises(TeacherError, match=r"model tiny/other is neither .*--teacher demo or a local folder"):
        fetch_model("tiny/other")


def test_a_listing_that_cannot_be_read_is_made_again(server: Hub, tmp_path: Path) -> None:
    before = hub_corpus("tiny/reviews", None)
    for text in ("", "[]", "{", '{"format": 99}', '{"format": 1, "files": {"a": 3}}'):
        for path in (tmp_path / "home/textsmooth").rglob("*.json"):
            path.write_text(text)
        assert hub_corpus("tiny/reviews", None) == before
    for path in (tmp_path / "home/textsmooth").rglob("*.json"):
        assert json.loads(path.read_text())["commit"] == before.revision


@pytest.mark.parametrize("path", ["README.md", r"\.huggingface\.yaml", "dataset_infos.json"])
def test_a_hub_that_fails_for_a_moment_hides_no_configs(server: Hub, repositories: Path, tmp_path: Path, path: str) -> None:
    folder = moved(repositories / "datasets/tiny/reviews", tmp_path / "new", "single/train-00001.parquet", rows(3, 9))
    (folder / ".huggingface.yaml").write_text(
        "configs:\n- config_name: other\n  data_files:\n  - {split: validation, path: single/train-*.parquet}\n"
    )
    (folder / "dataset_infos.json").write_text("{}")
    server.revisions["datasets/tiny/reviews"] = {"main": folder}
    server.faults = [Fault(rf"/resolve/.*/{path}$", status=500, times=2)]
    assert list(hub_corpus("tiny/reviews", None).splits) == ["validation"]
    server.faults = [Fault(rf"/resolve/.*/{path}$", status=503)]
    server.revisions["datasets/tiny/reviews"] = {"main": moved(folder, tmp_path / "newer", "single/train-00001.parquet", rows(4, 9))}
    with pytest.raises(CorpusError, match=r"failed with 503"):
        hub_corpus("tiny/reviews", None)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(server: Hub, status: int) -> None:
    server.faults = [Fault(".", status=status, headers={"Retry-After": "1"}, times=2)]
    assert first(streaming="never").local().is_file()


def test_a_hub_that_does_not_answer_in_time(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    server.faults = [Fault("/api/", delay_s=0.3)]
    with pytest.raises(CorpusError, match=r"broke several times while reading dataset tiny/reviews .ReadTimeout"):
        hub_corpus("tiny/reviews", None)


def test_a_long_rate_limit_is_not_waited_for(server: Hub) -> None:
    server.faults = [Fault("/api/", status=429, headers={"Retry-After": "3000"})]
    with pytest.raises(CorpusError, match=r"429.*wait a few minutes"):
        hub_corpus("tiny/reviews", None)
    assert len(server.log) == 1


def test_the_libraries_say_nothing(server: Hub) -> None:
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    server.faults = [Fault("/cdn/", status=503, times=3), Fault("/api/", status=500, times=1)]
    first(streaming="never").local().read_bytes()
    for logger in loggers:
        logger.removeHandler(handler)
    assert said == []
    assert [logger.level for logger in loggers] == levels


def test_a_model_is_fetched_without_what_no_teacher_needs(server: Hub, teacher: Path) -> None:
    folder, commit = fetch_model("tiny/bert")
    assert commit == server.commit("models/tiny/bert")
    assert set(files_of(folder)) == set(BERT)
    assert {name: data for name, data in files_of(folder).items() if name != "README.md"} == files_of(teacher)
    server.log.clear()
    assert fetch_model("tiny/bert", revision=commit) == (folder, commit)
    assert server.log == []


def test_a_model_in_parts(server: Hub, repositories: Path) -> None:
    folder, _ = fetch_model("tiny/sharded")
    parts = {p.name for p in (repositories / "models/tiny/sharded").glob("*.safetensors")}
    assert len(parts) > 1 and {p.name for p in folder.glob("*.safetensors")} == parts


def test_a_model_without_an_owner(server: Hub) -> None:
    server.redirects["models/old-bert"] = "models/tiny/bert"
    assert fetch_model("old-bert") == fetch_model("tiny/bert")
    with pytest.raises(UsageError, match=r"write it as owner/name"):
        fetch_model("older-bert")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("tiny/pickled", TeacherError, "only pytorch_model.bin, which is not read.: try --teacher-revision refs/pr/N"),
        ("tiny/empty", TeacherError, "has no config.json"),
        ("tiny/nothing", UsageError, "no model tiny/nothing on this machine or on the Hub"),
    ],
)
def test_what_is_no_model(server: Hub, name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        fetch_model(name)


def test_a_model_in_a_cache_with_holes(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, commit = fetch_model("tiny/bert")
    (folder / "tokenizer_config.json").unlink()
    assert fetch_model("tiny/bert", revision=commit) == (folder, commit)
    assert (folder / "tokenizer_config.json").is_file()
    (folder / "tokenizer_config.json").unlink()
    go_offline(monkeypatch)
    with pytest.raises(TeacherError, match=r"tokenizer_config.json is not in the cache"):
        fetch_model("tiny/bert")


def test_a_model_that_another_program_fetched(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download("tiny/bert"))
    go_offline(monkeypatch)
    assert fetch_model("tiny/bert") == (folder, folder.name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=r"neither on this machine nor in the cache"):
        fetch_model("tiny/bert")


def test_other_errors_are_not_taken_for_the_hubs() -> None:
    repo = hub_errors.Repo(kind="dataset", name="a/b", revision=None)
    for error in (KeyError("x"), PermissionError(13, "denied"), ValueError("no config")):
        assert hub_errors.explain_read(repo, error) is None
        with pytest.raises(type(error)):
            hub_errors.ask(repo, lambda error=error: (_ for _ in ()).throw(error))
