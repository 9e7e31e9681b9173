"""Killed at any moment, with any signal: the same command finishes the job, and the result is the same bytes."""

import io
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Process, Ran, files_of, rows, shards_of, tree, until, write_jsonl

from textsmooth.pipeline.units import worker as units
from textsmooth.schemas.plan import Plan
from textsmooth.stages.storage.folder import Folder

UNITS = 8
SIZES = ("--rows-per-shard", 5, "--topk", 4, "--temperatures", "0.5,1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight units."""
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "forty.jsonl", rows(5 * UNITS, 11))


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty units: long enough to be killed at different moments."""
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "long.jsonl", rows(300, 12))


def dataset(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_bytes())["dataset"])


def assert_clean(folder: Path) -> None:
    """A finished dataset, its record and nothing else: no receipts, no temporary files, no shard that the manifest does not name."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    listed = {"manifest.json", "run.json", *(entry["path"] for entry in (*manifest["shards"], *manifest["files"]))}
    assert set(files_of(folder)) == listed
    assert not (folder / "receipts").exists()


@pytest.fixture(scope="module")
def whole(corpus: Path, long_corpus: Path, zygote: Any, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The datasets of undisturbed runs."""
    found = {}
    for name, file in (("corpus", corpus), ("long", long_corpus)):
        out = tmp_path_factory.mktemp("whole") / name
        args = ["--corpus", file, "--out", out, "--teacher", teacher, "--dtype", "float32", "--threads", 1, *SIZES]
        ran = Process(zygote, [str(a) for a in args], tmp_path_factory.mktemp("process")).wait()
        assert ran.code == 0, ran.err
        found[name] = out
    return found


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_at_any_unit_and_run_again_gives_the_same_bytes(
    threads: int, corpus: Path, whole: dict[str, Path], gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = units.UnitWorker.finish

    def stop_at(number: int, *, after: bool) -> None:
        def finish(self: Any, unit: Any, *args: Any) -> Any:
            if unit.number == number and not after:
                raise KeyboardInterrupt
            receipt = real(self, unit, *args)
            if unit.number == number:
                raise KeyboardInterrupt
            return receipt

        monkeypatch.setattr(units.UnitWorker, "finish", finish)

    expected = shards_of(whole["corpus"])
    assert len(expected) == UNITS
    for number in range(0, UNITS, threads * threads):  # two threads of a tiny model are slow
        for after in (False, True):
            out = tmp_path / f"{number}-{after}"
            stop_at(number, after=after)
            assert gen("--corpus", corpus, "--out", out, "--threads", threads, *SIZES).code == 130
            assert not (out / "manifest.json").exists()
            begun = {p.name: p.stat().st_ino for p in (out / "train").glob("*.arrow")}
            assert len(begun) >= number + after
            monkeypatch.setattr(units.UnitWorker, "finish", real)
            assert gen("--corpus", corpus, "--out", out, "--threads", threads, *SIZES).code == 0
            assert shards_of(out) == expected
            assert dataset(out) == dataset(whole["corpus"])
            assert_clean(out)


def test_a_finished_unit_is_not_run_again(corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    real = units.UnitWorker.finish
    run: list[int] = []

    def finish(self: Any, unit: Any, *args: Any) -> Any:
        run.append(unit.number)
        if unit.number == 3 and len(run) == 4:
            raise KeyboardInterrupt
        return real(self, unit, *args)

    monkeypatch.setattr(units.UnitWorker, "finish", finish)
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 130
    stopped = list(run)
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0
    assert sorted(run) == sorted([*range(UNITS), 3])
    assert run[: len(stopped)] == stopped


@pytest.mark.parametrize("stop", ["plan.json", "receipts.jsonl", "tokenizer.json", "README.md", "manifest.json"])
def test_stopped_while_publishing_a_file_the_next_run_leaves_nothing_over(
    stop: str,
    corpus: Path,
    whole: dict[str, Path],
    gen_process: Callable[..., Process],
    gen: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed for good with a temporary file just written: nobody cleans up after it."""
    from textsmooth.stages.storage import atomic as storage

    out = tmp_path / "out"
    real = storage._write_temp

    class Killed(BaseException):
        pass

    left: list[Path] = []

    def write_temp(path: Path, write: Any, place: Any) -> Any:
        if path.name != stop:
            return real(path, write, place)
        path.parent.mkdir(parents=True, exist_ok=True)
        left.append(path.parent / f"{storage.TEMP_PREFIX}killed")
        data = io.BytesIO()
        write(data)
        left[-1].write_bytes(data.getvalue()[:10])
        raise Killed

    monkeypatch.setattr(storage, "_write_temp", write_temp)
    with pytest.raises(Killed):
        gen("--corpus", corpus, "--out", out, *SIZES)
    assert left[0].exists()
    monkeypatch.setattr(storage, "_write_temp", real)
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0
    assert_clean(out)
    assert shards_of(out) == shards_of(whole["corpus"])


def test_stopped_after_the_manifest_the_next_run_tidies_up(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textsmooth.pipeline.commit import commit

    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def stop(folder: Folder, plan: Plan) -> None:
        folder.put(".tmp-manifest", b"x")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(commit, "tidy", stop)
        with pytest.raises(Killed):
            gen("--corpus", corpus, "--out", out, *SIZES)
    assert (out / "receipts").is_dir()
    before = (out / "manifest.json").read_bytes()
    assert gen("--corpus", corpus, "--out", out, *SIZES).code == 0
    assert (out / "manifest.json").read_bytes() == before
    assert_clean(out)


@pytest.mark.parametrize(
    ("receipts", "threads"),
    [
        pytest.param(0, 1, marks=pytest.mark.slow),
        pytest.param(1, 1, marks=pytest.mark.slow),
        (7, 2),
        (30, 1),
        pytest.param(58, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_after_the_nth_receipt_and_run_again_gives_the_same_bytes(
    receipts: int, threads: int, long_corpus: Path, whole: dict[str, Path], gen_process: Callable[..., Process], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("--corpus", long_corpus, "--out", out, "--threads", threads, *SIZES)
    process = gen_process(*args)
    until(lambda: (out / "plan.json").exists() and len(list((out / "receipts").glob("*.json"))) >= receipts)
    process.kill(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    again = gen_process(*args).wait()
    assert again.code == 0, again.err
    kept, now = (int(number) for number in re.findall(r"(\d+) units? kept from an earlier run, (\d+) run now", again.out)[0])
    assert kept >= receipts and kept + now == 60 and " on cpu in float32: " in again.out
    assert shards_of(out) == shards_of(whole["long"])
    assert dataset(out) == dataset(whole["long"])
    assert_clean(out)


def test_killed_again_and_again_at_any_moment_it_ends_with_the_same_bytes(
    long_corpus: Path, whole: dict[str, Path], gen_process: Callable[..., Process], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("--corpus", long_corpus, "--out", out, "--threads", 1, *SIZES)
    killed = 0
    for delay_ms in (1, 20, 60, 90, 130, 150, 170, 200, 230, 260, 300):
        process = gen_process(*args)
        time.sleep(delay_ms / 1000)
        process.kill(signal.SIGKILL)
        killed += process.wait().code == -signal.SIGKILL
    assert killed >= 3
    again = gen_process(*args).wait()
    assert again.code == 0, again.err
    assert shards_of(out) == shards_of(whole["long"])
    assert_clean(out)


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_polite_signal_ends_with_its_code_a_line_and_whole_units(
    number: int, code: int, word: str, long_corpus: Path, whole: dict[str, Path], gen_process: Callable[..., Process], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("--corpus", long_corpus, "--out", out, "--threads", 1, *SIZES)
    process = gen_process(*args)
    until(lambda: len(list((out / "receipts").glob("*.json"))) >= 5)
    process.kill(number)
    ran = process.wait()
    assert ran.code == code
    assert ran.err.splitlines()[-1] == f"textsmooth-gen: {word}; the same command goes on from here"
    assert len(ran.err.strip().splitlines()) == {130: 1, 143: 2}[code]  # SIGTERM drains first, and says so
    assert not [name for name in tree(out) if ".tmp-" in name]
    named = {json.loads(p.read_bytes())["shard"] for p in (out / "receipts").glob("*.json")}
    assert named == set(shards_of(out))
    assert gen_process(*args).wait().code == 0
    assert shards_of(out) == shards_of(whole["long"])
    assert_clean(out)


@pytest.mark.parametrize("delay_ms", [0, pytest.param(0, marks=pytest.mark.slow), 40, pytest.param(120, marks=pytest.mark.slow)])
def test_two_drivers_on_one_folder_make_one_dataset(
    delay_ms: int, long_corpus: Path, whole: dict[str, Path], gen_process: Callable[..., Process], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("--corpus", long_corpus, "--out", out, "--threads", 1, *SIZES)
    first = gen_process(*args)
    time.sleep(delay_ms / 1000)
    second = gen_process(*args)
    for ran in (first.wait(), second.wait()):
        assert ran.code == 0, ran.err
    assert shards_of(out) == shards_of(whole["long"])
    assert_clean(out)


def test_a_driver_that_comes_late_runs_nothing_again(
    corpus: Path, whole: dict[str, Path], gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the receipts and its first unit, another driver does everything and finishes."""
    from textsmooth.pipeline.executors.inline import Inline

    out = tmp_path / "out"
    args = ("--corpus", corpus, "--out", out, *SIZES)
    real, real_score = Inline.run, units.UnitWorker.score
    ran: list[Ran] = []
    scored: list[object] = []

    def score(self: Any, ready: Any) -> Any:
        scored.append(ready)
        return real_score(self, ready)

    def run(*given: Any, **named: Any) -> Any:
        if not ran:
            ran.append(Ran(0, "", ""))
            ran[0] = gen(*args)
        return real(*given, **named)

    monkeypatch.setattr(Inline, "run", run)
    monkeypatch.setattr(units.UnitWorker, "score", score)
    assert gen(*args).code == 0
    assert ran[0].code == 0
    assert len(scored) == UNITS
    assert shards_of(out) == shards_of(whole["corpus"])
    assert_clean(out)


def test_two_drivers_that_guess_another_dtype_agree_on_the_first_plan(
    corpus: Path, gen: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is measured, so two machines may differ: the plan that is published counts for both."""
    from textsmooth.pipeline.generation import run as generation
    from textsmooth.stages.models import device

    out = tmp_path / "out"
    args = ("--corpus", corpus, "--out", out, "--dtype", "auto", *SIZES)
    real = generation.make_plan
    ran: list[Ran] = []

    def cut(*given: Any, **named: Any) -> Plan:
        plan = real(*given, **named)
        if not ran:
            ran.append(Ran(0, "", ""))
            monkeypatch.setattr(device, "pick_dtype", lambda kind: "float32")
            ran[0] = gen(*args)
        return plan

    monkeypatch.setattr(device, "pick_dtype", lambda kind: "bfloat16")
    monkeypatch.setattr(generation, "make_plan", cut)
    late = gen(*args)
    assert (ran[0].code, late.code) == (0, 0), late.err
    assert json.loads((out / "plan.json").read_bytes())["config"]["dtype"] == "float32"
    assert_clean(out)
