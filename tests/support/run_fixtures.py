"""Fixtures of whole runs."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Process, Ran, rows, write_jsonl
from helpers_hub import at_hub
from helpers_share import TOKEN
from helpers_train import KILL
from helpers_verify import Kinds, make_kinds
from hub_server import Hub

from textsmooth.pipeline.cli import app as cli
from textsmooth.stages.models.student_init import make_student

HUB_ENV = """
from huggingface_hub import constants
for name, value in {settings!r}.items():
    setattr(constants, name, value)
"""
COMMAND = """
os.environ.update({env!r})
real_run = cli.run
cli.run = lambda command, name, args: real_run(cli.textsmooth, 'textsmooth', args)
"""


@pytest.fixture(scope="session")
def student(kit, tmp_path_factory) -> Path:
    """A tiny student, not to be changed; the teacher it was made from is gone."""
    folder = tmp_path_factory.mktemp("student")
    make_student(kit.save_masked_lm(folder / "teacher"), (0, 2), folder / "student")
    shutil.rmtree(folder / "teacher")
    return folder / "student"


@pytest.fixture
def desk(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a corpus and a teacher of its own."""
    folder = tmp_path / "desk"
    folder.mkdir()
    write_jsonl(folder / "good.jsonl", rows(6))
    shutil.copytree(teacher, folder / "teacher")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, teacher: Path, reviews: Path) -> Path:
    """A dataset of several shards, made by textsmooth-gen. Not to be changed."""
    from textsmooth.pipeline.cli.gen import gen

    out = tmp_path_factory.mktemp("made") / "dataset"
    args = ["--corpus", reviews, "--teacher", teacher, "--rows-per-shard", 8, "--topk", 4, "--dtype", "float32", "--out", out]
    assert cli.run(gen, "textsmooth-gen", [*map(str, args), "--progress", "none", "--threads", "1"]) == 0
    (out / "run.json").unlink(missing_ok=True)  # no part of a dataset
    return out


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Kinds:
    """Datasets of every kind. Not to be changed."""
    return make_kinds(tmp_path_factory.mktemp("kinds"), teacher)


@pytest.fixture
def dataset(kinds: Kinds, tmp_path: Path) -> Path:
    """A copy of one of them, to be damaged."""
    return Path(shutil.copytree(kinds["single"][0], tmp_path / "dataset"))


@pytest.fixture
def where(kinds: Kinds) -> dict[str, str]:
    """Where its corpus and teacher lie."""
    options = kinds["single"][1]
    return {"corpus": options[1], "teacher": options[3]}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, whose token is set; short waits."""
    from huggingface_hub import constants

    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real(min(seconds, 0.001)))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub(tmp_path / "hub", large=2_000) as found, at_hub(monkeypatch, tmp_path / "home", found.url):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def textsmooth(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """`textsmooth …` in this process, in an empty folder."""
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")

    def start(*args: object) -> Ran:
        capsys.readouterr()
        code = cli.run(cli.textsmooth, "textsmooth", [str(arg) for arg in args])
        return Ran(code, *capsys.readouterr())

    return start


@pytest.fixture
def textsmooth_process(zygote: Callable[[Any], Any], tmp_path: Path) -> Callable[..., Process]:
    """Starts `textsmooth …` in a process of its own; patch: code that is run there before, die_at() is known to it."""

    def start(*args: object, patch: str = "", env: dict[str, str] | None = None, hub: Hub | None = None) -> Process:
        settings: dict[str, Any] = {}
        if hub is not None:
            home = tmp_path / "home"
            template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            settings = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False, "HF_HOME": str(home)}
            settings |= {"HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": str(home / "hub")}
        before = COMMAND.format(env={"HF_TOKEN": TOKEN, **(env or {})}) + HUB_ENV.format(settings=settings) + KILL
        folder = tmp_path / f"process-{time.monotonic_ns()}"
        folder.mkdir()
        return Process(zygote, [str(arg) for arg in args], folder, before + patch)

    return start
