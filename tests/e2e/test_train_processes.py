"""Training in two processes that torch.distributed joins: the student of one, and no process waits for one that has gone."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from textsmooth.pipeline.training.dispatch import train
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.training.distributed import World

SHARED = {"threads": 1, "lr": 5e-3, "dropout": 0.0, "epochs": 2, "checkpoint_every": 5, "batch_tokens": 250}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def words(smoothed: Path, student: Path, out: Path) -> list[str]:
    settings = (str(word) for name, value in SHARED.items() for word in (f"--{name.replace('_', '-')}", value))
    return [str(smoothed), "--student", str(student), "--out", str(out), *settings]


@pytest.fixture(scope="module")
def whole(smoothed: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process saves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return train(TrainOptions(dataset=str(smoothed), student=str(student), out=str(out), **SHARED)).out  # type: ignore[arg-type]


@pytest.fixture
def two(kit: ModuleType, zygote: Any, smoothed: Path, student: Path, tmp_path: Path) -> Callable[..., list[Any]]:
    """Starts two processes of one run, or as many as there are patches: code that each runs before."""

    def start(*args: object, patches: tuple[str, ...] = ("", "")) -> list[Any]:
        shared = {"WORLD_SIZE": str(len(patches)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        line = (*words(smoothed, student, tmp_path / "out"), *args)
        return [
            kit.train_process(zygote, tmp_path / f"said-{rank}", *line, patch=patches[rank], env={**shared, "RANK": str(rank)})
            for rank in range(len(patches))
        ]

    return start


def assert_same(kit: ModuleType, out: Path, whole: Path) -> None:
    """Equal but for rounding. The bias of keys has no gradient but that, which AdamW makes as long as any other."""
    mine, theirs = ([event["loss"] for event in kit.events(folder / "log.jsonl")] for folder in (out, whole))
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    a, b = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    for name in b:
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(a[name], b[name], atol=5e-4, err_msg=name)


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_two_processes_make_the_student_of_one(
    kit: ModuleType, two: Callable[..., list[Any]], whole: Path, tmp_path: Path, parts: int
) -> None:
    first, second = (process.wait() for process in two("--accumulate", parts))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "score" in first.out and second.out == ""
    assert_same(kit, tmp_path / "out", whole)


def test_a_killed_process_ends_the_other_and_one_alone_goes_on(
    kit: ModuleType, two: Callable[..., list[Any]], whole: Path, smoothed: Path, student: Path, tmp_path: Path
) -> None:
    first, second = (process.wait() for process in two(patches=("", "die_at('textsmooth.stages.training.step', 'TrainStep', 'update', 9)")))
    assert (first.code, second.code) == (1, -signal.SIGKILL)
    assert first.err.splitlines()[-1].startswith("textsmooth-train: process 0 of 2 lost the others")
    done = train(TrainOptions(dataset=str(smoothed), student=str(student), out=str(tmp_path / "out"), **SHARED))  # type: ignore[arg-type]
    assert_same(kit, done.out, whole)


def test_an_error_of_one_ends_both(two: Callable[..., list[Any]]) -> None:
    """Of the second process, in the midst of a batch: the first is at its gradients then."""
    memory = """
from textsmooth.stages.training import step as distill
def full(*args): raise MemoryError
distill.TrainStep._backward = full
"""
    first, second = (process.wait() for process in two(patches=("", memory)))
    assert (first.code, second.code) == (1, 1)
    assert "process 0 of 2 lost the others" in first.err and "out of memory in update 1" in second.err


IMPATIENT = """
from datetime import timedelta
from textsmooth.stages.training import distributed as world
world.WAIT = timedelta(seconds=2)
"""


@pytest.mark.slow
def test_one_that_does_not_answer_is_given_up(two: Callable[..., list[Any]]) -> None:
    """It is there, but does nothing: as when a machine hangs, or the network between them is gone."""
    frozen = f"die_at('textsmooth.stages.training.step', 'TrainStep', 'update', 4, ({int(signal.SIGSTOP)},))"
    first, second = two(patches=(IMPATIENT, IMPATIENT + frozen))
    ran = first.wait()
    second.kill(signal.SIGKILL)
    assert ran.code == 1 and "process 0 of 2 lost the others" in ran.err, ran.err
    assert second.wait().code == -signal.SIGKILL


@pytest.mark.slow
def test_an_evaluation_may_take_longer_than_an_answer(two: Callable[..., list[Any]]) -> None:
    slow = """
import time
from textsmooth.stages.training import evaluate
real = evaluate.Evaluation.__call__
evaluate.Evaluation.__call__ = lambda *args: (time.sleep(3), real(*args))[1]
"""
    first, second = (process.wait() for process in two("--max-steps", 6, patches=(IMPATIENT + slow, IMPATIENT)))
    assert (first.code, second.code) == (0, 0), first.err + second.err


@pytest.mark.slow
def test_one_of_four_may_take_longer_to_begin(two: Callable[..., list[Any]]) -> None:
    """What the first process says comes to some before others; they too wait for the slow one."""
    impatient = IMPATIENT.replace("seconds=2", "seconds=4")
    slow = """
import time
from textsmooth.pipeline.training import run as training
real = training.prepare
training.prepare = lambda *args: (time.sleep(6), real(*args))[1]
"""
    ran = [process.wait() for process in two("--max-steps", 1, patches=(impatient, impatient, impatient, impatient + slow))]
    assert [process.code for process in ran] == [0] * 4, "".join(process.err for process in ran)


def test_an_evaluation_that_fails_ends_both(two: Callable[..., list[Any]]) -> None:
    failing = """
from textsmooth.schemas.errors import DatasetError
from textsmooth.stages.training import evaluate
def fails(*args): raise DatasetError("no such rows")
evaluate.Evaluation.__call__ = fails
"""
    first, second = (process.wait() for process in two(patches=(failing, "")))
    assert (first.code, second.code) == (1, 1)
    assert "no such rows" in first.err and "process 1 of 2 lost the others" in second.err


def test_a_loss_that_is_no_number_ends_both_with_the_same_line(two: Callable[..., list[Any]]) -> None:
    broken = """
from textsmooth.stages.training import step as distill
real = distill.TrainStep._backward
def broken(self, *args):
    loss = real(self, *args)
    return loss * float("nan") if self.done == 3 else loss
distill.TrainStep._backward = broken
"""
    first, second = (process.wait() for process in two(patches=("", broken)))
    assert (first.code, second.code) == (1, 1)
    for ran in (first, second):
        assert "the loss became nan in update 4 on smoothed input (batch 3, rows " in ran.err and "nothing was saved" in ran.err


def test_a_signal_to_one_stops_both_after_the_same_update(two: Callable[..., list[Any]], tmp_path: Path) -> None:
    told = "die_at('textsmooth.stages.training.step', 'TrainStep', 'update', 7, (15,))"
    first, second = (process.wait() for process in two(patches=("", told)))
    assert (first.code, second.code) == (143, 143), first.err
    assert "terminated after update 8 of 24" in first.err and "terminated after update 8 of 24" in second.err
    assert (tmp_path / "out.run/step-00000008").is_dir()


@pytest.mark.ci
def test_torchrun(kit: ModuleType, whole: Path, smoothed: Path, student: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    line = [*command, "-m", "textsmooth.pipeline", "train", *words(smoothed, student, tmp_path / "out")]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("score") == 1
    assert_same(kit, tmp_path / "out", whole)


def test_what_torchrun_and_ray_would_both_start_is_refused(smoothed: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--num-workers starts processes by Ray Train, and torchrun has started some"):
        train(TrainOptions(dataset=str(smoothed), student=str(student), num_workers=2))


@pytest.mark.parametrize(("rank", "said"), [("2", "RANK 2 is not below WORLD_SIZE 2"), ("x", "must be numbers, as torchrun sets them")])
def test_a_place_that_cannot_be(monkeypatch: pytest.MonkeyPatch, rank: str, said: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(UsageError, match=said):
        World.from_environment()


def test_alone_every_call_is_free() -> None:
    world = World()
    assert world.sum([1.5, 2.0]) == [1.5, 2.0] and world.share({"a": 1}) == {"a": 1} and world.gather([1, 2, 3], 2) == [1, 2]
