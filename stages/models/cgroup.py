"""What the Linux kernel lets this process have: limits of its container."""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def cpu_quota() -> float | None:
    """CPUs whose time this process may use, by its control groups; None if they set no limit."""
    found = []
    for group in _groups("cpu"):
        words = [*_words(group / "cpu.max"), *_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def memory_limit() -> int | None:
    """Bytes that this process and what runs beside it may use, by its control groups; None if they set no limit."""
    files = [group / name for group in _groups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(word) for file in files for word in _words(file) if word.isdigit()), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process, versions 1 and 2, each with those above it: limits of all of them count."""
    for line in lines(PROC / "self/cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers or controller in controllers.split(","):
            root, group = CGROUPS / controller if controllers else CGROUPS, PurePosixPath(path.lstrip("/"))
            yield from (root / room for room in (group, *group.parents))


def _words(file: Path) -> list[str]:
    return " ".join(lines(file)).split()


def lines(file: Path) -> list[str]:
    """Of one of the kernel's files; none where there is no such file."""
    with contextlib.suppress(OSError):
        return file.read_text().splitlines()
    return []
