"""The benchmark's null teacher writes valid datasets; what a run keeps in memory does not grow with its receipts."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers_gen import rows, shards_of, write_jsonl

from textsmooth.pipeline.commit import commit
from textsmooth.pipeline.commit.receipts import receipt_name
from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.generation.run import Generated, generate
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.plan import Plan
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage.folder import read_json

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Callable[[str], ModuleType]]:
    """A benchmark as a module."""
    loaded = []

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec and spec.loader
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture
def null(benchmark: Callable[[str], ModuleType], teacher: Path, tmp_path: Path) -> Callable[..., Generated]:
    """A run with the null teacher over 40 rows, 7 to a unit."""
    worker = benchmark("null_teacher").NullWorker
    corpus = write_jsonl(tmp_path / "reviews.jsonl", rows(40))

    def run(out: str, **changes: Any) -> Generated:
        options = {"topk": 4, "rows_per_shard": 7, "device": "cpu", "dtype": "float32", "threads": 1, **changes}
        return generate(
            GenerateOptions(corpus=str(corpus), teacher=str(teacher), out=str(tmp_path / out), **options), executor=Inline(worker)
        )

    return run


@pytest.mark.parametrize("changes", [{}, {"mass": 0.9}, {"topk": 1}, {"temperatures": (0.5, 1.0, 2.0)}, {"context": "masked:3"}])
def test_the_null_teacher_writes_soft_ids_of_one_whole_distribution(null: Callable[..., Generated], changes: dict[str, Any]) -> None:
    made = null("out", **changes)
    data = SmoothedDataset(made.out, "train")
    assert len(data) == 40
    block = data.batch(np.arange(40))
    soft, special = block.soft, np.diff(block.soft.offsets) == 0
    assert 0 < special.sum() == (soft.original_logprob == 0).sum() < len(special)
    vocab = made.manifest.teacher["vocab_size"]
    for token in np.flatnonzero(~special):
        ids, logprobs, tail, original, partition = (np.asarray(part, np.float64) for part in soft_of(soft, token))
        assert len(set(ids)) == len(ids) <= 4 and ids.max() < vocab and ids[0] == block.input_ids[token]
        assert (np.diff(logprobs) < 0).all() and original == logprobs[0]
        assert np.exp(logprobs).sum() + np.exp(tail) == pytest.approx(1, abs=2e-3)
        for t, log_sum in zip(data.temperatures, partition, strict=True):
            assert np.exp(logprobs / t - log_sum).sum() < 1.002
    mass = changes.get("mass", 1.0)
    assert made.manifest.statistics["captured_mass"][str(changes.get("topk", 4))] >= min(mass, 0.87) - 1e-6


def soft_of(soft: Any, token: int) -> tuple[Any, ...]:
    first, last = soft.offsets[token : token + 2]
    return soft.ids[first:last], soft.logprobs[first:last], soft.log_tail[token], soft.original_logprob[token], soft.log_partition[token]


def test_two_runs_with_the_null_teacher_are_the_same_bytes(null: Callable[..., Generated], tmp_path: Path) -> None:
    assert null("a").manifest.dataset == null("b").manifest.dataset
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "b") != {}


def test_receipts_are_read_some_at_a_time_and_kept_without_their_statistics(
    null: Callable[..., Generated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand receipts with their histograms would be most of a gigabyte."""
    monkeypatch.setattr(commit, "tidy", lambda out, plan: commit.read_manifest(out))  # leaves the receipts one by one
    whole = null("out").manifest
    out = open_folder(tmp_path / "out")
    plan = Plan.from_json(read_json(out, "plan.json"))
    asked: list[int] = []
    real = type(out).read_all
    monkeypatch.setattr(type(out), "read_all", lambda self, names: (asked.append(len(list(names))), real(self, names))[1])
    monkeypatch.setattr(commit, "AT_ONCE", 4)
    found = commit.finished_units(out, plan)
    assert asked == [4, 2] and list(found) == [unit.id for unit in plan.units]
    assert all(receipt.stats == {} and receipt.versions is plan.versions for receipt in found.values())
    out.remove(("manifest.json",))
    null("out")  # gathered again, four at a time
    assert dataclasses.replace(commit.read_manifest(out), created="") == dataclasses.replace(whole, created="")
    out.remove(("manifest.json", receipt_name(plan.units[3]), next(f"train/{p.name}" for p in (tmp_path / "out/train").glob("00005-*"))))
    assert list(commit.finished_units(out, plan)) == [plan.units[n].id for n in (0, 1, 2, 4)]


def test_the_benchmark_checks_what_it_makes(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """And what it checks can fail."""
    benchmark("null_teacher")
    scale = benchmark("scale")
    ask = scale.argparse.Namespace(
        rows=90, rows_per_shard=20, files=2, topk=4, executor="inline", num_workers="1", sample=9, folder=tmp_path, keep=True
    )
    found = scale.run(ask, tmp_path)
    assert (found["rows"], found["units"], found["tokens"] > 90) == (90, 6, True)
    assert {"planning", "running", "committing"} <= found["seconds"].keys()
    assert scale.check(tmp_path / "out", 90, 9) == 6
    with pytest.raises(AssertionError, match="rows are missing"):
        scale.check(tmp_path / "out", 91, 9)
    shard = next((tmp_path / "out/train").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(AssertionError, match="differs"):
        scale.check(tmp_path / "out", 90, 9)
