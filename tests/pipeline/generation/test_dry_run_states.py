"""--dry-run on what is there already: finished, begun, another run; and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_gen import Ran, files_of, tree, wrong
from safetensors.torch import load_file, save_file

from textsmooth.pipeline.formatting import significant
from textsmooth.pipeline.generation import dry_run as previews
from textsmooth.pipeline.generation import run as generation
from textsmooth.pipeline.generation.dry_run import preview
from textsmooth.pipeline.generation.run import generate
from textsmooth.schemas.config import GenerateOptions


def options(corpus: Path, teacher: Path, out: Path, **asked: Any) -> GenerateOptions:
    shared = {"topk": 8, "threads": 1, "dtype": "float32", "rows_per_shard": 16}
    return GenerateOptions(corpus=str(corpus), teacher=str(teacher), out=str(out), **{**shared, **asked})


def test_a_finished_dataset_is_told_without_its_teacher(
    gen: Callable[..., Ran], reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", reviews, "--out", out, "--topk", 8).code == 0
    statistics = json.loads((out / "manifest.json").read_text())["statistics"]

    def never(*args: object) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(previews, "UnitWorker", never)
    ran = gen("--corpus", reviews, "--out", out, "--topk", 8, "--dry-run", "--price-per-hour", 1)
    assert ran.code == 0 and ran.out.startswith(f"Nothing to do: {out} is finished")
    assert f"{statistics['tokens']} tokens, {statistics['smoothed_tokens']} smoothed" in ran.out
    assert f"the top 8 hold {statistics['captured_mass']['8']:.1%}" in ran.out
    assert f"mean {significant(statistics['p_original']['mean'])}" in ran.out


# --- what goes wrong -------------------------------------------------------------------------------------------------------------


def test_interrupted_it_leaves_nothing(gen: Callable[..., Ran], reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(previews.UnitWorker, "score", stop)
    ran = gen("--corpus", reviews, "--dry-run")
    assert (ran.code, ran.err.strip()) == (130, "textsmooth-gen: interrupted; nothing was written")
    assert tree(tmp_path) == set()


def test_a_broken_teacher_is_told(gen: Callable[..., Ran], desk: Path) -> None:
    weights = desk / "teacher" / "model.safetensors"
    good = load_file(weights)
    save_file({k: v for k, v in good.items() if "transform" not in k}, weights, {"format": "pt"})
    asked = ("--corpus", "good.jsonl", "--teacher", "teacher", "--dry-run")
    assert "is missing weights" in wrong(gen, desk, 1, *asked)
    good["bert.embeddings.LayerNorm.bias"][3] = float("nan")
    save_file(good, weights, {"format": "pt"})
    assert "gives NaN in float32" in wrong(gen, desk, 1, *asked)


@pytest.mark.parametrize("words", [("--price-per-hour", "-1", "--dry-run"), ("--price-per-hour", "nan", "--dry-run")])
def test_a_price_that_makes_no_sense(words: tuple[str, ...], gen: Callable[..., Ran], desk: Path) -> None:
    assert "price-per-hour" in wrong(gen, desk, 2, "--corpus", "good.jsonl", *words)


def test_more_entries_than_the_vocabulary_has(gen: Callable[..., Ran], desk: Path) -> None:
    assert "is more than the teacher's vocabulary" in wrong(gen, desk, 2, "--corpus", "good.jsonl", "--topk", 5000, "--dry-run")


def test_what_is_left_of_a_run_that_was_begun(reviews: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generation, "commit", stop)
        generate(options(reviews, teacher, out))
    next(out.glob("train/00002-*")).unlink()
    before = files_of(out)
    found = preview(options(reviews, teacher, out))
    assert (found.finished, found.done, found.rows_left) == (False, 2, 8)
    assert found.sample is not None and found.sample.rows == 40
    assert files_of(out) == before


def test_another_run_in_the_folder_is_told_and_the_figures_all_the_same(gen: Callable[..., Ran], reviews: Path, tmp_path: Path) -> None:
    asked = ("--corpus", reviews, "--topk", 3, "--out", tmp_path / "out")
    assert gen(*asked).code == 0
    before = files_of(tmp_path / "out")
    ran = gen(*asked, "--mass", 0.9, "--dry-run")
    assert ran.code == 0, ran.err
    first = ran.out.splitlines()[0]
    assert first.startswith("Would be refused: ") and "mass: 1.0 there, 0.9 asked for" in first
    assert "Kept and lost" in ran.out
    assert files_of(tmp_path / "out") == before
