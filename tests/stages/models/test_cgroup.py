"""What the kernel lets a process have, read from files like its own; and the threads that follow from it."""

import os
from pathlib import Path

import pytest

from textsmooth.stages.models import cgroup as kernel
from textsmooth.stages.models.device import default_threads, pick_dtype


def container(root: Path, monkeypatch: pytest.MonkeyPatch, groups: str, **files: str) -> None:
    """The files by which the kernel tells the limits of a container; __ in a name is /, _ is a dot."""
    for name, text in {"proc__self__cgroup": groups, **files}.items():
        path = root / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(kernel, "PROC", root / "proc")
    monkeypatch.setattr(kernel, "CGROUPS", root / "sys")


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", {"sys__cpu-max": "50000 100000\n", "sys__memory-max": "3000000000\n"}),
        (
            "0::/pod/box\n",
            {"sys__pod__cpu-max": "50000 100000", "sys__pod__box__cpu-max": "max 100000", "sys__pod__memory-max": "3000000000"},
        ),
        (
            "4:memory:/host/box\n3:cpu,cpuacct:/host/box\n0::/\n",
            {
                "sys__cpu__cpu-cfs_quota_us": "50000",
                "sys__cpu__cpu-cfs_period_us": "100000",
                "sys__memory__memory-limit_in_bytes": "3000000000",
            },
        ),
    ],
    ids=["version 2", "nested", "version 1"],
)
def test_limits_of_a_container_are_told(groups: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container(tmp_path, monkeypatch, groups, **files)
    assert (kernel.cpu_quota(), kernel.memory_limit()) == (0.5, 3_000_000_000)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == 1


def test_no_limits_where_none_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container(
        tmp_path,
        monkeypatch,
        "0::/\n1:cpu:/\n",
        **{"sys__cpu-max": "max 100000", "sys__memory-max": "max", "sys__cpu__cpu-cfs_quota_us": "-1"},
    )
    assert (kernel.cpu_quota(), kernel.memory_limit()) == (None, None)
    monkeypatch.setattr(kernel, "PROC", tmp_path / "no such kernel")
    assert kernel.cpu_quota() is None


@pytest.mark.parametrize(
    ("asked", "cpus", "quota", "expected"),
    [
        (None, 8, None, 8),
        (None, 8, "250000 100000", 2),
        (None, 2, "800000 100000", 2),
        ("3", 8, "100000 100000", 3),
        ("5,2", 8, None, 5),
        ("many", 8, None, 8),
        ("0", 4, None, 4),
    ],
)
def test_threads_by_default(
    asked: str | None, cpus: int, quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container(tmp_path, monkeypatch, "0::/\n", **({"sys__cpu-max": quota} if quota else {}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cpus)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert default_threads() == expected


def test_bfloat16_on_a_cpu_has_to_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from textsmooth.stages.models import device

    for bfloat16, expected in ((0.9, "float32"), (0.7, "bfloat16")):
        monkeypatch.setattr(device, "_matmul_seconds", lambda *names, last=bfloat16: dict(zip(names, (1.0, last), strict=True)))
        assert pick_dtype("cpu") == expected
