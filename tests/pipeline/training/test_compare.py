"""A comparison: equal updates, paired differences, what is there is not made again, and what cannot be is told in one line."""

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers_gen import Process, Ran, until
from scipy.stats import ttest_rel

from textsmooth.pipeline.cli.app import run, textsmooth
from textsmooth.pipeline.training import compare as module
from textsmooth.pipeline.training.compare import compare, paired
from textsmooth.schemas.compare import Arm, CompareOptions
from textsmooth.schemas.errors import ConflictError, DatasetError, UsageError
from textsmooth.schemas.train import TrainOptions


@pytest.fixture(scope="module")
def dataset(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = kit.small_dataset(tmp_path_factory.mktemp("d") / "small", task_teacher=True)
    return folder


@pytest.fixture
def options(dataset: Path, student: Path, tmp_path: Path) -> Callable[..., CompareOptions]:
    def make(*arms: str, seeds: int = 2, keep_students: bool = False, **changes: Any) -> CompareOptions:
        given = {"dataset": str(dataset), "student": str(student), "threads": 1, "lr": 5e-3, "progress": "none", "max_steps": 6}
        common = TrainOptions(**{**given, **changes})  # type: ignore[arg-type]
        out = str(tmp_path / "out")
        return CompareOptions(common=common, arms=tuple(map(Arm.parse, arms)), seeds=seeds, out=out, keep_students=keep_students)

    return make


def runs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_paired_difference_is_that_of_students_t() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.normal(0.8, 0.02, 5), rng.normal(0.82, 0.02, 5)
    found = paired(tuple(other), tuple(first))
    low, high = ttest_rel(other, first).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.mean == pytest.approx(float(np.mean(other - first)))
    alone = paired((0.5,), (0.4,))
    assert alone.mean == pytest.approx(0.1) and math.isnan(alone.low) and not alone.tells
    undefined = paired((0.5, math.nan, 0.6), (0.4, 0.4, 0.4))
    assert math.isnan(undefined.mean) and math.isnan(undefined.low) and not undefined.tells
    assert paired((2.0, 2.1), (1.0, 1.1)).tells and not paired((2.0, 0.0), (1.0, 1.1)).tells


def test_every_arm_makes_the_same_updates_and_no_student_is_left(options: Callable[..., CompareOptions], tmp_path: Path) -> None:
    said: list[str] = []
    found = compare(options("plain", "both", "kd+smoothed", "smoothed:lam=0.2", max_steps=None, epochs=1), said.append)
    made = runs(tmp_path / "out")
    assert [(r["arm"], r["seed"]) for r in made] == [(a, s) for s in (0, 1) for a in ("plain", "both", "kd+smoothed", "smoothed:lam=0.2")]
    assert {r["steps"] for r in made} == {found.steps} and found.steps > 1
    assert said[0] == "run 1 of 8: plain, seed 0" and len(said) == 8
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["compare.json", "compare.md", "compare.png", "results.jsonl"]
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert found.table().splitlines()[2].startswith("| plain | ") and "| seed 0 | seed 1 | mean | sd | against plain" in found.table()
    assert (tmp_path / "out" / "compare.md").read_text() == f"{found.table()}\n"
    head, *lines = found.columns().splitlines()
    assert head.split("  ")[-1] == "against plain [95% interval]" and [line.split()[0] for line in lines] == [arm.arm for arm in found.arms]
    assert max(map(len, (head, *lines))) < 80 and "|" not in found.summary()
    summary = json.loads((tmp_path / "out" / "compare.json").read_text())
    for arm, told in zip(found.arms, summary["arms"], strict=True):
        assert list(arm.scores) == told["scores"] == [r["score"] for r in made if r["arm"] == arm.arm]
        assert told["mean"] == pytest.approx(np.mean(arm.scores))
    assert found.arms[1].against == paired(found.arms[1].scores, found.arms[0].scores)


def test_what_is_there_is_not_made_again(options: Callable[..., CompareOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare(options("plain", "smoothed"))
    with (tmp_path / "out" / "results.jsonl").open("a") as file:
        file.write('{"arm": "plain", "se')  # killed in the middle of a line
    trained = []

    def counted(asked: TrainOptions, progress: Any = None) -> Any:
        trained.append((asked.inputs, asked.seed))
        return real(asked, progress)

    real = module.train
    monkeypatch.setattr(module, "train", counted)
    assert compare(options("plain", "smoothed")) == before and trained == []
    after = compare(options("plain", "smoothed", "mixed", seeds=3))
    assert trained == [("mixed", 0), ("mixed", 1), ("plain", 2), ("smoothed", 2), ("mixed", 2)]
    assert after.arms[1].scores[:2] == before.arms[1].scores
    assert compare(options("plain", "smoothed", "mixed", seeds=3)) == after and len(trained) == 5
    with pytest.raises(ConflictError, match=r"other settings \(lr 0\.005, now 0\.001\); give another --out"):
        compare(options("plain", "smoothed", lr=1e-3))


def test_a_run_is_the_same_in_a_comparison_and_alone(options: Callable[..., CompareOptions], tmp_path: Path) -> None:
    found = compare(options("plain", "smoothed:lam=uniform", keep_students=True, seeds=1))
    common = options("plain", "both").common
    alone = module.train(replace(common, inputs="smoothed", lam="uniform", out=str(tmp_path / "alone")))
    assert found.arms[1].scores[0] == alone.metrics[found.metric]
    assert (tmp_path / "out" / "students" / "smoothed-lamuniform-0" / "model.safetensors").read_bytes() == (
        alone.out / "model.safetensors"
    ).read_bytes()


def test_a_score_that_is_undefined_ends_no_comparison(
    options: Callable[..., CompareOptions], kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that says the same of every row has no correlation."""
    real = module.train

    def constant(asked: TrainOptions, progress: Any = None) -> Any:
        made = real(asked, progress)
        return replace(made, metrics={**made.metrics, "pearson": None}) if asked.inputs == "smoothed" and asked.seed == 1 else made

    monkeypatch.setattr(module, "train", constant)
    values = kit.small_dataset(tmp_path / "v", label_kind="value", label_names=None)
    for _ in range(2):
        found = compare(options("plain", "smoothed", "mixed", dataset=str(values)))
        assert "undefined in at least one run: pearson of smoothed" in found.summary()
        assert json.loads((tmp_path / "out" / "compare.json").read_text())["arms"][1]["scores"][1] is None


def test_what_cannot_be_is_told_before_the_first_run(options: Callable[..., CompareOptions], kit: ModuleType, tmp_path: Path) -> None:
    bare = kit.write_dataset(tmp_path / "bare", {"train": [kit.random_rows(1, 40).block]})
    with pytest.raises(UsageError, match="no teacher_logits for --objective kd"):
        compare(options("plain", "kd", dataset=str(bare), eval_split="train"))
    with pytest.raises(DatasetError, match="no labelled validation split to compare on; give --eval-split"):
        compare(options("plain", "smoothed", dataset=str(bare)))
    with pytest.raises(UsageError, match="topk 30: the dataset stores 8"):
        compare(options("plain", "smoothed:topk=30"))
    with pytest.raises(UsageError, match="no student at"):
        compare(options("plain", "smoothed", student=str(tmp_path / "none")))
    assert not (tmp_path / "out").exists()


def test_an_interrupted_comparison_goes_on(
    dataset: Path, student: Path, textsmooth_process: Callable[..., Process], tmp_path: Path
) -> None:
    """SIGTERM in the middle of a run: 143, saved; the same command ends with the scores of one that was never stopped."""
    words = ("--student", student, "--arms", "plain,smoothed", "--seeds", 1, "--threads", 1, "--max-steps", 24, "--lr", 5e-3)

    def command(out: str) -> Process:
        return textsmooth_process("compare", dataset, *words, "--out", tmp_path / out)

    whole = command("whole").wait()
    assert whole.code == 0 and "against plain" in whole.out, whole.err
    process = command("cut")
    log = tmp_path / "cut" / "students" / "plain-0.run" / "log.jsonl"
    until(lambda: log.is_file() and '"step": 9' in log.read_text())
    process.kill(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.code == 143
    assert "stopped in plain, seed 0, and saved; the same command goes on from here" in stopped.err
    assert command("cut").wait().out.splitlines()[:4] == whole.out.splitlines()[:4]


def test_the_command_line(dataset: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> Ran:
        code = run(textsmooth, "textsmooth", ["compare", str(dataset), "--student", str(student), "--out", str(tmp_path / "o"), *words])
        return Ran(code, *capsys.readouterr())

    for words, told in (
        (("--arms", "plain"), "at least two arms"),
        (("--arms", "plain,smoothd"), "arm 'smoothd': 'smoothd' is none of plain, smoothed"),
        (("--arms", "plain,smoothed:lam=2"), "lam must be"),
        (("--arms", "plain,smoothed", "--seeds", "0"), "seeds must be"),
    ):
        ran = said(*words)
        assert ran.code == 2 and told in ran.err and len(ran.err.splitlines()) == 1, ran
