"""Checks of CPU, memory and GPU, and of what `auto` chooses."""

import os
import platform
import warnings
from collections.abc import Iterator

from textsmooth.pipeline.diagnostics.check_result import CheckResult, Group
from textsmooth.pipeline.formatting import size
from textsmooth.stages.models import cgroup
from textsmooth.stages.models.cgroup import lines

MACHINE = Group("Machine")


def cpus() -> Iterator[CheckResult]:
    """The CPU, and the number of threads of a run."""
    from textsmooth.stages.models.device import default_threads, device_name, threads_of

    yield MACHINE.ok("CPU", f"{_model()}, {device_name('cpu')}")
    threads, all_of_it = default_threads(), os.cpu_count() or 1
    asked, quota = os.environ.get("OMP_NUM_THREADS"), cgroup.cpu_quota()
    if asked and threads == threads_of(asked):
        why = f"as OMP_NUM_THREADS={asked} says, of {all_of_it}"
    elif quota is not None and threads == max(int(quota), 1):
        why = f"its container has the time of {quota:g} CPUs, of {all_of_it}"
    else:
        why = f"one for each CPU that this process may use{f', of {all_of_it}' if all_of_it > threads else ''}"
    yield MACHINE.ok("threads", f"{threads}, {why}")
    spins = os.environ.get("GOMP_SPINCOUNT", "").lower()
    if spins.startswith("infini") or (not spins and os.environ.get("OMP_WAIT_POLICY", "").lower() == "active"):
        name = "GOMP_SPINCOUNT" if spins else "OMP_WAIT_POLICY"
        yield MACHINE.note(
            "waiting",
            f"{name}={os.environ[name]}: threads that wait keep their CPUs busy, a run is slow wherever others want them",
            f"unset {name}: they will sleep after a moment",
        )


def memory() -> Iterator[CheckResult]:
    """Memory: total, free, and the limit of the container."""
    meminfo = _meminfo()
    total = meminfo.get("MemTotal") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = f", {size(meminfo['MemAvailable'])} of it free" if "MemAvailable" in meminfo else ""
    limit = cgroup.memory_limit()
    bounded = f"; its container may use {size(limit)}" if limit is not None and limit < total else ""
    yield MACHINE.ok("memory", f"{size(total)}{free}{bounded}")


def gpus() -> Iterator[CheckResult]:
    """GPUs that torch can use, and why it cannot use one that is present."""
    import torch

    from textsmooth.stages.models.device import pick_dtype

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    for number in range(torch.cuda.device_count() if usable else 0):
        about, device = torch.cuda.get_device_properties(number), f"cuda:{number}"
        yield MACHINE.ok(f"GPU {number}", f"{about.name}, {size(about.total_memory)}, {pick_dtype(device)}")
    if usable:
        return
    present = len(list((cgroup.PROC / "driver/nvidia/gpus").glob("*")))
    if not present:
        yield MACHINE.ok("GPU", "none")
    elif "CUDA_VISIBLE_DEVICES" in os.environ:
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        yield MACHINE.note("GPU", f"{present} of NVIDIA, none usable with CUDA_VISIBLE_DEVICES={hidden!r}", "unset it to use them")
    elif torch.version.cuda is None:
        advice = "install a torch for CUDA: https://pytorch.org/get-started/locally"
        yield MACHINE.problem("GPU", f"{present} of NVIDIA, but torch {torch.__version__} is built without CUDA", advice)
    else:
        why = str(caught[0].message).splitlines()[0] if caught else "torch finds none"
        advice = f"install a driver for CUDA {torch.version.cuda}, or a torch that is older"
        yield MACHINE.problem("GPU", f"{present} of NVIDIA, not usable: {why}", advice)


def choice() -> Iterator[CheckResult]:
    """What `--device auto --dtype auto` chooses on this machine."""
    from textsmooth.stages.models.device import WORTH_IT, pick_device, pick_dtype

    device = pick_device(None)
    dtype = pick_dtype(device)
    if device == "cpu":
        why = f"bfloat16 was {'' if dtype == 'bfloat16' else 'not '}{WORTH_IT:g} times as fast as float32 when tried just now"
    else:
        why = f"the GPU has {'' if dtype == 'bfloat16' else 'no '}bfloat16 of its own"
    yield MACHINE.ok("--device auto --dtype auto", f"{device}, {dtype}: {why}")


def _model() -> str:
    """The model name of the CPU."""
    named = (line.partition(":")[2].strip() for line in lines(cgroup.PROC / "cpuinfo") if line.startswith("model name"))
    return next(named, "") or platform.processor() or "a CPU without a name"


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where it does not exist."""
    fields = (line.replace(":", "").split() for line in lines(cgroup.PROC / "meminfo"))
    return {words[0]: int(words[1]) * 1024 for words in fields if len(words) == 3}
