"""What all tests share: no network, one thread, a tiny random teacher, tiny corpora, and ways to run the command line."""
# ruff: noqa: E402 (the environment is set before anything reads it)

import os

for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import ipaddress
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import helpers_train
import hypothesis
import pytest
import torch
from helpers_gen import ZYGOTE, Process, Ran, make_model, make_tokenizer, rows, write_jsonl, write_parquet
from helpers_hub import make_datasets, make_models
from s3_server import S3

pytest_plugins = ["run_fixtures"]
torch.set_num_threads(1)
for _name, _examples in (("fast", 15), ("full", 40)):  # make test-all: --hypothesis-profile full
    hypothesis.settings.register_profile(_name, deadline=None, max_examples=_examples, derandomize=True, database=None)
hypothesis.settings.load_profile("fast")


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a unix socket
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to anything but this machine fail."""
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, real: Callable[..., Any] = real) -> Any:
            if not _is_local(address):
                raise AssertionError(f"a test reached for the network: {address!r}")
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)


@pytest.fixture(autouse=True)
def same_signals_and_threads() -> Iterator[None]:
    """Running the command line in this process leaves nothing behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def number_format_is_measured_once() -> Iterator[None]:
    """The measurement behind `--dtype auto` takes seconds of CPU time: one is enough for all tests of a process."""
    from textsmooth.stages.models import device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_matmul_seconds", cache(device._matmul_seconds))
        yield


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny masked LM with its tokenizer. Not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines: 40 rows of single texts. Not to be changed."""
    return write_jsonl(tmp_path_factory.mktemp("corpora") / "reviews.jsonl", rows(40))


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as a Hub dataset: configs `single` (train, validation; class names) and `pair` (train). Not to be changed."""
    folder = tmp_path_factory.mktemp("corpora") / "tinyglue"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\n"
        "license: cc-by-4.0\n"
        "configs:\n"
        "- config_name: single\n"
        "  data_files:\n"
        "  - {split: train, path: single/train-*.parquet}\n"
        "  - {split: validation, path: single/validation-*.parquet}\n"
        "- config_name: pair\n"
        "  data_files:\n"
        "  - {split: train, path: pair/train-*.parquet}\n"
        "---\n# tiny\n"
    )
    labelled = [{**r, "label": -1 if r["label"] is None else r["label"]} for r in rows(30, 1)]
    write_parquet(folder / "single/train-00000.parquet", labelled[:17], group=5, classes=("no", "yes"))
    write_parquet(folder / "single/train-00001.parquet", labelled[17:], group=100, classes=("no", "yes"))
    write_parquet(folder / "single/validation-00000.parquet", rows(9, 2), group=4, classes=("no", "yes"))
    write_parquet(folder / "pair/train-00000.parquet", rows(21, 3, pair=True), group=6)
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A folder to serve as the Hub: datasets and models. Each module has its own."""
    root = tmp_path_factory.mktemp("hub")
    make_datasets(root)
    make_models(root, teacher)
    return root


@pytest.fixture
def gen(teacher: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`textsmooth-gen` in this process, with the tiny teacher unless one is named: gen("--corpus", path, "--out", folder, …)."""
    from textsmooth.pipeline.cli.app import run
    from textsmooth.pipeline.cli.gen import gen as command

    def start(*args: object) -> Ran:
        words = [str(arg) for arg in args]
        given = {"--teacher": teacher, "--threads": 1, "--dtype": "float32", "--progress": "none"}
        for option, value in given.items():
            if option not in words:
                words += [option, str(value)]
        capsys.readouterr()
        code = run(command, "textsmooth-gen", words)
        return Ran(code, *capsys.readouterr())

    return start


@pytest.fixture(scope="session")
def zygote() -> Iterator[Callable[[Any], Any]]:
    """A process that has imported everything and forks: a fresh command-line process costs milliseconds, not seconds."""
    with subprocess.Popen([sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert json.loads(process.stdout.readline()) == "ready"

        def ask(question: Any) -> Any:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture
def gen_process(zygote: Callable[[Any], Any], teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Process]:
    """Starts `textsmooth-gen` in a process of its own, with the tiny teacher."""

    def start(*args: object) -> Process:
        shared = ["--teacher", teacher, "--dtype", "float32", "--progress", "none"]
        return Process(zygote, [str(a) for a in (*args, *shared)], tmp_path_factory.mktemp("process"))

    return start


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A stand-in for Amazon S3. Tests take `bucket`."""
    from textsmooth.stages.storage import registry

    with S3() as server:
        yield server
        registry.close_stores()


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """s3://… of a bucket of the stand-in, empty, no faults; waits are short, the cache is the test's own."""
    from textsmooth.stages.storage.object_store import Store
    from textsmooth.stages.storage.retry import OBJECT_STORE

    for name, value in {**s3.environment, "TEXTSMOOTH_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Store, "retries", replace(OBJECT_STORE, first_wait_s=0.001))
    yield s3.new_bucket()
    s3.clear()


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """tests/support/helpers_train.py: synthetic datasets and tiny models."""
    return helpers_train


@pytest.fixture(scope="session")
def smoothed(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small smoothed dataset, not to be changed."""
    return kit.small_dataset(tmp_path_factory.mktemp("smoothed") / "dataset")
