"""Which device and number format a run uses when it was not told: asked of the machine that will do the work."""

import os
import platform
import statistics
import time

import torch

from textsmooth.schemas.config import DType
from textsmooth.schemas.errors import UsageError

WORTH_IT = 1.3  # bfloat16 must be this much faster on a CPU: it is less exact, and timings are noisy


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
    return "bfloat16" if _matmul_seconds(torch.float32) > WORTH_IT * _matmul_seconds(torch.bfloat16) else "float32"


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


def _matmul_seconds(dtype: torch.dtype) -> float:
    """Median time of a small vocabulary projection: [256, 768] @ [768, 4096]."""
    hidden, table = torch.ones(256, 768, dtype=dtype), torch.ones(4096, 768, dtype=dtype)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        torch.nn.functional.linear(hidden, table)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def device_name(device: str) -> str:
    """The model of the device, as the machine calls it."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


def default_threads() -> int:
    """CPU threads this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
