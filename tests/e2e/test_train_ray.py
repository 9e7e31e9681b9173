"""`textsmooth-train --num-workers 2` on a real local Ray: a worker that is killed is replaced, and the run goes on."""

import re
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from helpers_gen import until

from textsmooth.pipeline.training.dispatch import train
from textsmooth.schemas.train import TrainOptions

SHARED = {"threads": 1, "lr": 5e-3, "max_steps": 40, "dropout": 0.0, "checkpoint_every": 5}


@pytest.fixture
def command(kit: ModuleType, zygote: Any, smoothed: Path, student: Path, tmp_path: Path) -> Callable[..., Any]:
    def start(*args: object, patch: str = "") -> Any:
        settings = (word for name, value in SHARED.items() for word in (f"--{name.replace('_', '-')}", value))
        words = (smoothed, "--student", student, "--out", tmp_path / "out", "--progress", "json", *settings, *args)
        return kit.train_process(zygote, tmp_path / "said", *words, patch=patch)

    return start


@pytest.fixture(scope="module")
def whole(kit: ModuleType, smoothed: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process alone."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(TrainOptions(dataset=str(smoothed), student=str(student), out=str(out), **SHARED))  # type: ignore[arg-type]
    return [event["loss"] for event in kit.events(out / "log.jsonl")]


def _update(log: Path) -> int:
    return len(re.findall('"update"', log.read_text())) if log.is_file() else 0


def _workers(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.ci
def test_a_killed_worker_is_survived_and_the_result_is_that_of_one_process(
    kit: ModuleType, command: Callable[..., Any], whole: list[float], tmp_path: Path
) -> None:
    slow = "import textsmooth.pipeline.training.ray_train as r; r.LOOK_S = 0.05"
    running = command("--num-workers", 2, patch=slow)
    until(lambda: _update(tmp_path / "out.run/log.jsonl") >= 8, 400)
    workers = _workers(running.pid)
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 0, ended.err
    assert "trained  40 updates" in ended.out
    (again,) = kit.events(tmp_path / "out/log.jsonl", "resumed")
    assert again["step"] >= 5
    np.testing.assert_allclose([event["loss"] for event in kit.events(tmp_path / "out/log.jsonl")], whole, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "said"]


@pytest.mark.slow
def test_sigterm_ends_it_resumable_by_one_process(kit: ModuleType, command: Callable[..., Any], whole: list[float], tmp_path: Path) -> None:
    running = command("--num-workers", 2)
    until(lambda: _update(tmp_path / "out.run/log.jsonl") >= 3, 400)
    running.kill(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.code == 143, stopped.err
    assert re.search(r"terminated after update \d+ of 40, saved in .*/out\.run; the same command goes on", stopped.err)
    assert command().wait().code == 0
    np.testing.assert_allclose([event["loss"] for event in kit.events(tmp_path / "out/log.jsonl")], whole, atol=1e-5)


def test_errors_of_other_processes_keep_their_kind() -> None:
    from textsmooth.pipeline.training.ray_train import _error
    from textsmooth.pipeline.training.stop import Stopped
    from textsmooth.stages.training.step import TrainingError

    for kind, code in ((TrainingError, 1), (Stopped, 143)):
        error = _error({"kind": kind.__name__, "text": "what it said", "exit_code": code})
        assert (type(error), str(error), error.exit_code) == (kind, "what it said", code)


def test_nobody_begins_again_once_an_error_was_said(tmp_path: Path) -> None:
    """Processes that waited for the one that failed may have died of it, and Ray replaces them."""
    from textsmooth.pipeline.training.ray_train import _work

    (tmp_path / "error-1.json").touch()
    _work({"work": str(tmp_path), "options": asdict(TrainOptions(dataset="nowhere", student="nobody"))})
    assert [path.name for path in tmp_path.iterdir()] == ["error-1.json"]
