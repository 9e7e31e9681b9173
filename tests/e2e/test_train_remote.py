"""What a run reads that is not on this machine: a student of the Hub, safetensors alone; a dataset in a store, and what is said of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers_gen import Ran
from helpers_hub import go_offline
from hub_server import Hub
from s3_server import S3

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.storage.atomic import read_json

SHARED = ("--max-steps", 2, "--threads", 1, "--progress", "none")


@pytest.fixture
def repo(hub: Hub, student: Path) -> Path:
    """me/student, with files that no student needs."""
    folder: Path = shutil.copytree(student, hub.root / "models/me/student")
    for name in ("pytorch_model.bin", "modeling_evil.py"):
        (folder / name).write_bytes(b"not needed")
    return folder


@pytest.fixture
def pickled(repo: Path) -> Path:
    """me/pickled: the same without safetensors."""
    folder: Path = shutil.copytree(repo, repo.with_name("pickled"))
    (folder / "model.safetensors").unlink()
    return folder


def test_a_student_of_the_hub_is_trained_as_one_in_a_folder(
    hub: Hub, repo: Path, smoothed: Path, student: Path, textsmooth: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = textsmooth("train", smoothed, "--student", "me/student", "--out", "me", *SHARED)  # no folder of the student lies there
    assert ran.code == 0, ran.err
    assert "trained  2 updates" in ran.out
    fetched = {line.rpartition("/")[2] for line in hub.log if line.startswith("HEAD ")}
    assert "model.safetensors" in fetched and not fetched & {"pytorch_model.bin", "modeling_evil.py"}
    assert textsmooth("train", smoothed, "--student", student, "--out", "local", *SHARED).code == 0
    assert Path("me/model.safetensors").read_bytes() == Path("local/model.safetensors").read_bytes()
    digests = [read_json(Path(out) / "train.json")["student"] for out in ("me", "local")]
    assert digests[0] == digests[1]

    hub.log.clear()
    go_offline(monkeypatch)
    again = textsmooth("train", smoothed, "--student", "me/student", "--out", "again", *SHARED)
    assert again.code == 0, again.err
    assert hub.log == []


def test_pickled_weights_are_refused_and_a_revision_without_them_is_taken(
    hub: Hub, repo: Path, pickled: Path, smoothed: Path, textsmooth: Callable[..., Ran]
) -> None:
    asked = ("train", smoothed, "--student", "me/pickled", "--out", "out", *SHARED)
    ran = textsmooth(*asked)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran.err
    assert "me/pickled" in ran.err and "has no model.safetensors (only pytorch_model.bin, which is not read)" in ran.err
    assert "try --student-revision refs/pr/N" in ran.err
    assert not Path("out").exists()
    assert not any("pytorch_model.bin" in line for line in hub.log)
    hub.revisions["models/me/pickled"] = {"main": pickled, "refs/pr/1": repo}
    ran = textsmooth(*asked, "--student-revision", "refs/pr/1")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("me/nobody", None, "no model me/nobody on this machine or on the Hub"),
        ("me/student", "v9", "has no revision 'v9': give --student-revision"),
        ("desk", "main", "is on this machine, only a model on the Hub has revisions: remove --student-revision"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    repo: Path, smoothed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, revision: str | None, said: str
) -> None:
    from textsmooth.pipeline.training.dispatch import train

    monkeypatch.chdir(tmp_path)
    Path("desk").mkdir()
    with pytest.raises(UsageError, match=said) as caught:
        train(TrainOptions(dataset=str(smoothed), student=name, student_revision=revision, out="out", progress="none"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--max-rows", 8, "--max-steps", 1), None),
        (("--batch-tokens", 2_000, "--epochs", 1), "how many batches of 2,000 tokens there are; with --max-steps that is not needed"),
        (("--rows-per-class", 4, "--epochs", 1), "which labels there are"),
        (("--batch-tokens", 2_000, "--max-steps", 1), None),
        (("--epochs", 1), None),
    ],
)
def test_what_is_fetched_before_the_first_update_is_said(
    kit: ModuleType, student: Path, bucket: str, s3: S3, textsmooth: Callable[..., Ran], words: tuple[object, ...], why: str | None
) -> None:
    local = kit.small_dataset(Path("local"), statistics={"unlabelled_rows": 0})
    size = sum(path.stat().st_size for path in (local / "train").iterdir()) / 1e3
    expected = [] if why is None else [f"fetching 2 shards ({size:.1f} kB) first, unless they are in the cache, to know {why}"]
    for place, said in ((s3.upload(local, f"{bucket}/dataset"), expected), (local, [])):
        ran = textsmooth("train", place, "--student", student, "--threads", 1, "--out", "out", "--overwrite", *words)
        assert ran.code == 0, ran.err
        assert [line for line in ran.err.splitlines() if "fetching" in line] == said
