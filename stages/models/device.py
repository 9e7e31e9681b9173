"""Which device and number format a run uses when it was not told: asked of the machine that will do the work."""

import math
import os
import platform
import time

import torch

from textsmooth.schemas.config import DType
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.models.cgroup import cpu_quota

WORTH_IT = 1.3  # bfloat16 must be this much faster on a CPU: it is less exact, and timings are noisy
MEASURED = 10  # times; the best counts


def pick_device(asked: str | None) -> str:
    """The device to use: the one asked for (UsageError if it is not there), else cuda, else cpu."""
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=asked).item()
    except (RuntimeError, AssertionError):
        raise UsageError(f"device {asked!r} is not usable here; --device takes cpu, or cuda where there is a GPU") from None
    return asked


def pick_dtype(device: str) -> DType:
    """bfloat16 where it is clearly faster: on GPUs that have it, and on CPUs where a short measurement says so."""
    if device.startswith("cuda"):
        return "bfloat16" if computes(device, "bfloat16") else "float16"
    if device != "cpu":
        return "float32"
    # having the instructions does not settle it: some CPUs with AVX512-BF16 multiply float32 as fast, those with AMX are 5x faster
    seconds = _matmul_seconds("float32", "bfloat16")
    return "bfloat16" if seconds["float32"] > WORTH_IT * seconds["bfloat16"] else "float32"


def computes(device: str, dtype: str) -> bool:
    """Whether a device computes in a number format: a GPU by itself, not in an emulation that is many times slower."""
    if device.startswith("cuda") and dtype == "bfloat16":
        with torch.cuda.device(torch.device(device)):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        ones = torch.ones(8, 8, dtype=getattr(torch, dtype), device=device)
        (ones @ ones).sum().item()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (RuntimeError, TypeError):
        return False
    return True


def _matmul_seconds(*dtypes: str) -> dict[str, float]:
    """The least time of a small vocabulary projection, [256, 768] @ [768, 4096], in each: taken in turn, whatever else the machine does."""
    kinds = {name: getattr(torch, name) for name in dtypes}
    given = {name: (torch.ones(256, 768, dtype=kind), torch.ones(4096, 768, dtype=kind)) for name, kind in kinds.items()}
    least = dict.fromkeys(dtypes, math.inf)
    for _ in range(MEASURED):
        for name, (hidden, table) in given.items():
            start = time.perf_counter()
            torch.nn.functional.linear(hidden, table)
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def device_name(device: str) -> str:
    """The model of the device, as the machine calls it."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


def default_threads() -> int:
    """CPU threads that this process should have: OMP_NUM_THREADS if it is set, else the CPUs it may use, by affinity and container."""
    asked = threads_of(os.environ.get("OMP_NUM_THREADS", ""))
    if asked is not None:
        return asked
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cpus if quota is None else min(cpus, max(int(quota), 1))


def threads_of(text: str) -> int | None:
    """The threads that a value of OMP_NUM_THREADS asks for; None if it is none. Of a list, one number per level, the first counts."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
