"""SIGTERM: units that run are finished, no further one is begun, and the same command goes on from there."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Process, Ran, rows, shards_of, until, write_jsonl

from textsmooth.pipeline.executors import shutdown as drain
from textsmooth.pipeline.generation import run as generation
from textsmooth.pipeline.units import worker as units

SIZES = ("--topk", 3, "--rows-per-shard", 150, "--context", "masked:8", "--threads", 1)
SAID = "SIGTERM: no further unit is begun, those that run have 25 s to end; SIGTERM again ends at once\n"
LAST = "textsmooth-gen: terminated; the same command goes on from here\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six units of about half a second each."""
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "slow.jsonl", rows(900, 5))


def receipts(out: Path) -> int:
    return len(list((out / "receipts").glob("*.json")))


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_bytes())
    return found


def test_a_process_finishes_what_runs_and_the_next_one_does_the_rest(
    corpus: Path, gen_process: Callable[..., Process], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    undisturbed = gen_process("--corpus", corpus, "--out", whole, *SIZES)
    ran = undisturbed.wait()
    assert ran.code == 0, ran.err
    process = gen_process("--corpus", corpus, "--out", out, *SIZES)
    until(lambda: receipts(out) == 1)  # the second unit runs
    process.kill(signal.SIGTERM)
    ended = process.wait()
    assert (ended.code, ended.out, ended.err) == (143, "", SAID + LAST)
    assert 2 <= receipts(out) < 6 and not (out / "manifest.json").exists()
    done = shards_of(out)
    found = record(out)
    assert (found["outcome"], found["exit_code"], found["units"]["run"]) == ("terminated", 143, len(done))
    rest = gen_process("--corpus", corpus, "--out", out, *SIZES).wait()
    assert rest.code == 0, rest.err
    assert shards_of(out) == shards_of(whole) and done.items() <= shards_of(whole).items()
    assert (record(out)["outcome"], record(out)["units"]["reused"]) == ("done", len(done))


def test_a_second_sigterm_ends_at_once(corpus: Path, gen_process: Callable[..., Process], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = gen_process("--corpus", corpus, "--out", out, *SIZES)
    until(lambda: receipts(out) == 1)
    process.kill(signal.SIGTERM)
    until(lambda: "SIGTERM" in process._err.read_text())
    process.kill(signal.SIGTERM)
    ended = process.wait()
    assert (ended.code, ended.err) == (143, SAID + LAST)
    assert receipts(out) < 6 and not (out / "manifest.json").exists()


def test_the_deadline_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "DRAIN_S", 0.05)
    stopped: list[bool] = []
    start = time.monotonic()
    with drain.listening(), pytest.raises(drain.Terminated), drain.draining(lambda: stopped.append(True)):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stopped == [True] and 0.04 < time.monotonic() - start < 2


def test_the_second_one_does_not_wait() -> None:
    stopped: list[bool] = []
    with drain.listening(), pytest.raises(drain.Terminated), drain.draining(lambda: stopped.append(True)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped == [True] and drain.terminating()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stopped == [True]


def test_afterwards_signals_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)]
    with drain.listening(), drain.draining(lambda: None):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_handler_that_something_else_installed_does_not_stay() -> None:
    """ray.init does."""
    stopped: list[bool] = []
    with drain.listening():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with drain.draining(lambda: stopped.append(True)):
            os.kill(os.getpid(), signal.SIGTERM)
    assert stopped == [True]


@pytest.mark.parametrize("phase", ["planning", "loading"])
def test_before_a_unit_runs_it_ends_at_once(phase: str, gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    if phase == "planning":
        monkeypatch.setattr(generation, "make_plan", killed)
    else:
        monkeypatch.setattr(units, "Teacher", killed)
    start = time.monotonic()
    ran = gen("--corpus", "good.jsonl", "--out", "out", "--topk", 3)
    assert (ran.code, ran.out, ran.err) == (143, "", LAST)
    assert time.monotonic() - start < 4 and not (desk / "out").exists()


def kill_at_unit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = units.UnitWorker.score

    def score(self: Any, *args: Any) -> Any:
        nonlocal number
        number -= 1
        if number == -1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(units.UnitWorker, "score", score)


def test_if_the_last_unit_runs_the_dataset_is_finished(gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at_unit(monkeypatch, 2)
    ran = gen("--corpus", "good.jsonl", "--out", "out", "--topk", 3, "--rows-per-shard", 2)
    assert ran.code == 0 and (desk / "out/manifest.json").exists()


def test_a_job_begins_no_further_corpus(gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "job.yaml").write_text("topk: 3\ncorpora:\n- {corpus: good.jsonl, out: a}\n- {corpus: good.jsonl, out: b}\n")
    kill_at_unit(monkeypatch, 0)  # the only one of the first corpus
    ran = gen("--config", "job.yaml")
    assert (ran.code, ran.err) == (143, LAST)
    assert ran.out.splitlines()[-2:] == ["  good.jsonl: written, a", "  good.jsonl: not begun"]
    again = gen("--config", "job.yaml")
    assert again.code == 0 and again.out.splitlines()[-2:] == ["  good.jsonl: finished before, a", "  good.jsonl: written, b"]


def test_a_job_that_is_terminated_within_a_corpus(gen: Callable[..., Ran], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "job.yaml").write_text("topk: 3\nrows-per-shard: 2\ncorpora:\n- {corpus: good.jsonl, out: a}\n- {corpus: good.jsonl, out: b}\n")
    kill_at_unit(monkeypatch, 1)
    ran = gen("--config", "job.yaml")
    assert (ran.code, ran.err) == (143, LAST.replace(":", ": good.jsonl:", 1))
    assert ran.out.splitlines() == ["job.yaml: 2 corpora", "  good.jsonl: terminated (exit code 143), a", "  good.jsonl: not begun"]
    assert receipts(desk / "a") == 2


IMPORTS = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
from textsmooth.pipeline.executors import shutdown as drain

with drain.listening():
    try:
        import a_slow_module
        print("imported", flush=True)
        time.sleep(5)
        print("went on")
    except drain.Terminated:
        print("ended", drain.terminating())
"""
SLOW_MODULE = """
import os, signal, time
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(20):
            time.sleep(0.01)
Swallows()  # what is raised in there is only printed
"""


def test_in_the_middle_of_an_import_it_waits_until_that_is_over(tmp_path: Path) -> None:
    """Modules in C++ abort if something is raised in them, and a callback of the import system swallows it."""
    (tmp_path / "a_slow_module.py").write_text(SLOW_MODULE)
    ran = subprocess.run([sys.executable, "-c", IMPORTS.format(folder=str(tmp_path))], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("imported\nended True\n", "")


def test_one_that_was_swallowed_is_heard_before_units_run() -> None:
    with drain.listening():
        with contextlib.suppress(drain.Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        with pytest.raises(drain.Terminated), drain.draining(lambda: None):
            pytest.fail("units were begun")


def test_one_of_a_command_that_has_ended_says_nothing_to_what_follows() -> None:
    """A program may call `textsmooth` and then generate: the next one begins with nothing asked of it."""
    with drain.listening(), pytest.raises(drain.Terminated), drain.draining(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not drain.terminating()
    with drain.draining(lambda: None):
        pass
