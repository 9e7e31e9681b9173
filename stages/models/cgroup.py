"""CPU and memory limits that Linux control groups (containers) set for this process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def cpu_quota() -> float | None:
    """CPUs that this process may use, by the quotas of its control groups; None without a quota."""
    quotas = []
    for group in _groups("cpu"):
        words = [*_words(group / "cpu.max"), *_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Bytes that the control group of this process may use; None without a limit."""
    files = [group / name for group in _groups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(word) for file in files for word in _words(file) if word.isdigit()), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process, versions 1 and 2, with their parents: the limits of all apply."""
    for line in lines(PROC / "self/cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers or controller in controllers.split(","):
            root, group = CGROUPS / controller if controllers else CGROUPS, PurePosixPath(path.lstrip("/"))
            yield from (root / folder for folder in (group, *group.parents))


def _words(file: Path) -> list[str]:
    return " ".join(lines(file)).split()


def lines(file: Path) -> list[str]:
    """The lines of a kernel file; none if there is no such file."""
    with contextlib.suppress(OSError):
        return file.read_text().splitlines()
    return []
