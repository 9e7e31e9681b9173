"""A run that is killed, interrupted or resumed ends with the student of a run that was not."""

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from textsmooth.pipeline.training.dispatch import train
from textsmooth.pipeline.training.stop import Stopped
from textsmooth.schemas.errors import ConflictError, TextsmoothError
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.training import checkpoint

SHARED = {"threads": 1, "lr": 5e-3, "epochs": 2, "lam": "uniform", "draws": 3, "inputs": "both"}  # 40 updates, with dropout


@pytest.fixture
def options(smoothed: Path, student: Path, tmp_path: Path) -> Callable[..., TrainOptions]:
    def make(**changes: Any) -> TrainOptions:
        return TrainOptions(**{"dataset": str(smoothed), "student": str(student), "out": str(tmp_path / "out"), **SHARED, **changes})

    return make


@pytest.fixture(scope="module")
def whole(smoothed: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without interruption saves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(TrainOptions(dataset=str(smoothed), student=str(student), out=str(out), checkpoint_every=5, **SHARED))  # type: ignore[arg-type]
    return out


@pytest.fixture
def command(kit: ModuleType, zygote: Any, smoothed: Path, student: Path, tmp_path: Path) -> Callable[..., Any]:
    def start(*args: object, patch: str = "") -> Any:
        words = (smoothed, "--student", student, "--out", tmp_path / "out", "--checkpoint-every", 5)
        settings = (word for name, value in SHARED.items() for word in (f"--{name}", value))
        return kit.train_process(zygote, tmp_path / "said", *words, *settings, *args, patch=patch)

    return start


def same(left: Path, right: Path) -> bool:
    a, b = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(kit: ModuleType, out: Path) -> list[float]:
    return [event["loss"] for event in kit.events(out / "log.jsonl")]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_twice_in_a_row_at_any_update_the_student_is_the_same_to_the_bit(
    kit: ModuleType, command: Callable[..., Any], whole: Path, tmp_path: Path, seed: int
) -> None:
    first, second = (random.Random(seed).randint(1, 20) for _ in range(2))  # of each process's own updates
    for call in (first, second):
        patch = f"die_at('textsmooth.stages.training.step', 'TrainStep', 'update', {call})"
        assert command(patch=patch).wait().code == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    ended = command().wait()
    assert ended.code == 0, ended.err
    assert same(tmp_path / "out", whole)
    assert losses(kit, tmp_path / "out") == losses(kit, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "said"]


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("textsmooth.stages.training.checkpoint", "sync", 6),  # in the midst of the second checkpoint
        ("textsmooth.stages.training.checkpoint", "sync", 10),  # it is in place, the folder not synced
        ("textsmooth.pipeline.training.run", "save_model", 1),  # trained, not saved
        ("textsmooth.pipeline.training.run", "remove", 2),  # saved, the run's folder still there
    ],
)
def test_killed_while_it_saves(command: Callable[..., Any], whole: Path, tmp_path: Path, module: str, name: str, call: int) -> None:
    assert command(patch=f"die_at({module!r}, None, {name!r}, {call})").wait().code == -signal.SIGKILL
    ended = command().wait()
    assert ended.code == 0, ended.err
    assert "trained  40 updates" in ended.out
    assert same(tmp_path / "out", whole)
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_it_resumable(
    command: Callable[..., Any], whole: Path, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    stopped = command(patch=f"die_at('textsmooth.stages.training.step', 'TrainStep', 'update', 7, ({int(number)},))").wait()
    assert stopped.code == code
    assert f"{word} after update 8 of 40, saved in {tmp_path}/out.run; the same command goes on" in stopped.err
    assert checkpoint.read_state(tmp_path / "out.run/step-00000008").update == 8  # both updates of its batch
    ended = command().wait()
    assert ended.code == 0 and "resuming after update 8 of 40" in ended.err
    assert same(tmp_path / "out", whole)


def test_a_second_signal_ends_it_at_once(command: Callable[..., Any]) -> None:
    patch = "die_at('textsmooth.stages.training.step', 'TrainStep', 'update', 2, (2, 2))"
    stopped = command(patch=patch).wait()
    assert stopped.code == 130 and stopped.err.endswith("interrupted; the same command goes on from the last checkpoint\n")


def _stop_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    from textsmooth.stages.training.step import TrainStep

    real = TrainStep.update

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.done == update:
            signal.raise_signal(signal.SIGINT)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(TrainStep, "update", counted)


@pytest.fixture
def unfinished(options: Callable[..., TrainOptions], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a run that stopped after 12 updates."""
    with monkeypatch.context() as patch:
        _stop_at(patch, 10)
        with pytest.raises(Stopped, match="interrupted after update 12 of 40"):
            train(options(checkpoint_every=4))
    return tmp_path / "out.run"


def test_overwrite_begins_an_unfinished_run_again_unless_resume_is_given_too(
    kit: ModuleType, options: Callable[..., TrainOptions], unfinished: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path / "kept")
    assert same(train(options(overwrite=True)).out, whole)
    assert kit.events(tmp_path / "out/log.jsonl", "resumed") == []
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "kept").rename(unfinished)
    assert same(train(options(overwrite=True, resume=True)).out, whole)
    assert [event["step"] for event in kit.events(tmp_path / "out/log.jsonl", "resumed")] == [12]


def test_how_it_is_computed_may_change_in_between(options: Callable[..., TrainOptions], unfinished: Path, whole: Path) -> None:
    assert same(train(options(loader_workers=2, checkpoint_every=None)).out, whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 1e-3}, "lr was 0.005, now 0.001"),
        ({"lam": 0.5, "draws": None}, "lam was 'uniform', now 0.5; draws was 3, now None"),
        ({"epochs": 3}, "epochs was 2, now 3"),
    ],
)
def test_other_options_are_not_resumed(options: Callable[..., TrainOptions], unfinished: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConflictError, match=f"cannot resume .*out.run: {said}; give what it began with") as caught:
        train(options(**changes))
    assert "\n" not in str(caught.value)
    assert train(options(resume=True, overwrite=True, max_steps=1, **changes)).steps == 1  # both flags: go on, or else begin again


def test_another_dataset_or_student_is_not_resumed(
    kit: ModuleType, options: Callable[..., TrainOptions], unfinished: Path, tmp_path: Path
) -> None:
    other = kit.write_dataset(tmp_path / "other", {"train": [kit.random_rows(7, 300).block]})
    with pytest.raises(ConflictError, match=r"cannot resume .*: the dataset was [0-9a-f]{12}, now [0-9a-f]{12}"):
        train(options(dataset=str(other)))
    another = kit.save_masked_lm(tmp_path / "another", seed=5, num_hidden_layers=2)
    with pytest.raises(ConflictError, match=r"the student was [0-9a-f]{12}, now [0-9a-f]{12}"):
        train(options(student=str(another)))


def test_resume_begins_where_there_is_nothing_and_ends_where_all_is_done(options: Callable[..., TrainOptions], whole: Path) -> None:
    first = train(options())
    assert same(first.out, whole)
    before = (first.out / "train.json").stat().st_mtime_ns
    again = train(options())
    assert again == first
    assert not first.before
    assert again.summary().startswith(f"nothing to do: {first.out} was trained just so\n")
    assert (first.out / "train.json").stat().st_mtime_ns == before
    with pytest.raises(ConflictError, match=r"out holds a student that was trained with seed 0, now 3; choose another --out, or"):
        train(options(seed=3))


def test_a_finished_run_of_another_student_is_not_taken_for_this_one(
    kit: ModuleType, options: Callable[..., TrainOptions], whole: Path, tmp_path: Path
) -> None:
    first = train(options(max_steps=2))
    another = kit.save_masked_lm(tmp_path / "another", seed=5, num_hidden_layers=2)
    with pytest.raises(ConflictError, match=r"was trained with student [0-9a-f]{12}, now [0-9a-f]{12}"):
        train(options(max_steps=2, student=str(another)))
    assert train(options(max_steps=2)) == first


def test_what_a_kill_left_half_written_goes(options: Callable[..., TrainOptions], unfinished: Path, whole: Path) -> None:
    torn = unfinished / ".tmp-0123456789abcdef"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    seen = []

    def looked(*args: Any, **kwargs: Any) -> Any:
        seen.append(torn.exists())
        return real(*args, **kwargs)

    real = checkpoint.restore
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "restore", looked)
        assert same(train(options()).out, whole)
    assert seen == [False]


def test_a_damaged_checkpoint_is_named(options: Callable[..., TrainOptions], unfinished: Path, whole: Path) -> None:
    (last,) = (path for path in checkpoint.checkpoints(unfinished) if path.name.endswith("12"))
    (last / "optimizer.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(TextsmoothError, match=r"step-00000012 is damaged .*; remove it, and the run goes on from the one before"):
        train(options())
    shutil.rmtree(last)
    assert same(train(options()).out, whole)


def test_the_best_state_is_saved_and_survives_an_interruption(
    kit: ModuleType, options: Callable[..., TrainOptions], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {"inputs": "smoothed", "epochs": 8, "eval_every": 5, "patience": 3, "lam": 0.5, "draws": None}
    first = train(options(out=str(tmp_path / "first"), **asked))
    scores = {event["step"]: event["metrics"]["accuracy"] for event in kit.events(first.out / "log.jsonl", "evaluation")}
    best = max(scores.values())
    assert first.metrics["accuracy"] == best == scores[first.saved_step] and first.saved_step == min(s for s in scores if scores[s] == best)
    assert first.steps < 80 and first.steps == first.saved_step + 15  # three evaluations later it stopped
    with monkeypatch.context() as patch:
        _stop_at(patch, first.saved_step + 6)
        with pytest.raises(Stopped):
            train(options(**asked))
    again = train(options(**asked))
    assert (again.saved_step, again.metrics) == (first.saved_step, first.metrics)
    assert same(again.out, first.out)
