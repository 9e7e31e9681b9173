"""The short form of `make chaos`: a driver, a worker and a raylet are killed."""

import pytest
from chaos import chaos


@pytest.mark.ci
def test_whatever_is_killed_nothing_is_lost() -> None:
    done = chaos(rounds=2, seed=1)  # workers that die: test_ray.py
    assert [found.kind for found in done] == ["driver", "raylet"]
    assert [found.wrong for found in done] == [()] * 2
