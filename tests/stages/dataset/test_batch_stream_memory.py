"""Epoch after epoch the loader holds on to no more than after the first ones."""

import gc
import threading
import tracemalloc
from pathlib import Path

import psutil
import pytest

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset

EPOCHS, WARM_UP = 20, 3
GROWTH_BYTES = 25_000  # over the epochs after the warm-up; one batch of this test has more


@pytest.mark.parametrize("how", [{"batch_size": 90}, {"batch_tokens": 700}], ids=["rows", "tokens"])
def test_memory_is_flat_over_many_epochs(smoothed: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, int]) -> None:
    """Windows are small, so that there are several of them."""
    monkeypatch.setattr("textsmooth.stages.dataset.dataset.WINDOW_ROWS", 100)
    dataset = SmoothedDataset(smoothed, "train")
    collate = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(lam="uniform", draws=3))
    stream = dataset.stream(collate, **how)
    tracemalloc.start()
    try:
        for epoch in range(EPOCHS):
            if epoch == WARM_UP:
                before, handles = held()
            assert stream.epoch == epoch and stream.steps == sum(1 for _ in stream)
        after, handles_now = held()
    finally:
        tracemalloc.stop()
    assert after - before < GROWTH_BYTES
    assert handles_now <= handles


def held() -> tuple[int, int]:
    """Bytes that Python and numpy have allocated; open files and threads."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0], psutil.Process().num_fds() + threading.active_count()
