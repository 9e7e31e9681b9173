"""What the tests of merging share: small datasets of JSON lines, and what a reader gets of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers_gen import files_of, rows, shards_of, write_jsonl

from textsmooth.pipeline.generation.run import generate
from textsmooth.schemas.config import GenerateOptions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest

LABELLED = [{**row, "label": row["idx"] % 2} for row in rows(90, 31)]


def maker(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """What makes a dataset of JSON lines with the tiny teacher: rows by split, units of 8."""

    def made(name: str, splits: dict[str, list[dict[str, Any]]], **more: Any) -> Path:
        folder = tmp_path_factory.mktemp("corpora") / name
        folder.mkdir()
        for split, lines in splits.items():
            write_jsonl(folder / f"{split}.jsonl", lines)
        out = folder.parent / f"{name}-smoothed"
        shared = {"teacher": str(teacher), "threads": 1, "dtype": "float32", "rows_per_shard": 8, "topk": 3}
        generate(GenerateOptions(corpus=str(folder), out=str(out), **{**shared, **more}))
        return out

    return made


def logical(folder: Path, split: str) -> pa.Table:
    """What a reader gets of a split."""
    return pa.Table.from_batches(list(SmoothedDataset(folder, split).record_batches()))


def same_dataset(one: Path, other: Path) -> None:
    """Equal bytes but for times."""
    assert shards_of(one) == shards_of(other)
    found, wanted = read_manifest(one), read_manifest(other)
    assert (found.dataset, found.plan, found.statistics) == (wanted.dataset, wanted.plan, wanted.statistics)
    assert {f.path for f in found.files} == {f.path for f in wanted.files}
    listed = {"manifest.json", *(entry.path for entry in (*found.shards, *found.files))}
    assert set(files_of(one)) == listed
