"""Datasets to merge. Not to be changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_merge import LABELLED, maker

from textsmooth.pipeline.share.merge import merge


@pytest.fixture(scope="module")
def make(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a dataset of JSON lines: its name, its rows by split."""
    return maker(teacher, tmp_path_factory)


@pytest.fixture(scope="module")
def a(make: Callable[..., Path]) -> Path:
    return make("a", {"train": LABELLED[:20], "validation": LABELLED[20:25]})


@pytest.fixture(scope="module")
def b(make: Callable[..., Path]) -> Path:
    return make("b", {"train": LABELLED[30:43], "test": LABELLED[50:53]})


@pytest.fixture(scope="module")
def merged(a: Path, b: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b as one. Not to be changed."""
    out = tmp_path_factory.mktemp("merged") / "ab"
    merge([a, b], out)
    return out
