"""Resolve `auto` for device, number format and threads, on the machine that does the work."""

import math
import os
import platform
import time

import torch

from textsmooth.schemas.config import DType
from textsmooth.schemas.errors import UsageError
from textsmooth.stages.models.cgroup import cpu_quota

WORTH_IT = 1.3  # a CPU uses bfloat16 only if it is this much faster: it is less exact, and timings are noisy
REPEATS = 10  # of the measurement; the fastest counts


def pick_device(requested: str | None) -> str:
    """The requested device, or cuda if there is one, else cpu. UsageError if the requested device cannot be used."""
    if requested is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=requested).item()
    except (RuntimeError, AssertionError):
        raise UsageError(f"device {requested!r} is not usable here; --device takes cpu, or cuda where there is a GPU") from None
    return requested


def pick_dtype(device: str) -> DType:
    """bfloat16 where it is clearly faster: on GPUs that support it, and on CPUs by a short measurement."""
    if device.startswith("cuda"):
        return "bfloat16" if computes(device, "bfloat16") else "float16"
    if device != "cpu":
        return "float32"
    # having the instructions does not settle it: some CPUs with AVX512-BF16 multiply float32 as fast, those with AMX are 5x faster
    seconds = _matmul_seconds("float32", "bfloat16")
    return "bfloat16" if seconds["float32"] > WORTH_IT * seconds["bfloat16"] else "float32"


def computes(device: str, dtype: str) -> bool:
    """Whether a device computes in a number format; a slow emulation on a GPU does not count."""
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
    """The least seconds of a small projection, [256, 768] @ [768, 4096], by dtype; measured in turn, for a machine under load."""
    dtype_of = {name: getattr(torch, name) for name in dtypes}
    operands = {name: (torch.ones(256, 768, dtype=dtype), torch.ones(4096, 768, dtype=dtype)) for name, dtype in dtype_of.items()}
    least = dict.fromkeys(dtypes, math.inf)
    for _ in range(REPEATS):
        for name, (hidden, table) in operands.items():
            start = time.perf_counter()
            torch.nn.functional.linear(hidden, table)
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def device_name(device: str) -> str:
    """The name of the device's model."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


def default_threads() -> int:
    """CPU threads to use: OMP_NUM_THREADS if it is set, else the CPUs that affinity and container allow."""
    threads = threads_of(os.environ.get("OMP_NUM_THREADS", ""))
    if threads is not None:
        return threads
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cpus if quota is None else min(cpus, max(int(quota), 1))


def threads_of(text: str) -> int | None:
    """The number of threads in a value of OMP_NUM_THREADS; None if it is invalid. The first number of a list counts."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None
