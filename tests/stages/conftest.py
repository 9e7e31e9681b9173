"""Fixtures of the training stages."""

from pathlib import Path
from types import ModuleType

import helpers_train
import pytest


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """tests/helpers_train.py: synthetic datasets and tiny models."""
    return helpers_train


@pytest.fixture(scope="session")
def smoothed(kit, tmp_path_factory) -> Path:
    """A small smoothed dataset, not to be changed."""
    return kit.small_dataset(tmp_path_factory.mktemp("smoothed") / "dataset")
