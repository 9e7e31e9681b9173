"""Device, number format and threads of the machine that will do the work: determined there, because a head node may differ."""

import platform
from dataclasses import dataclass

from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import MachineError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What `auto` means on one machine, and the versions installed there."""

    node: str  # its name, for messages
    device: str  # cpu, cuda, cuda:1
    dtype: str
    threads: int  # CPU threads of one worker
    versions: dict[str, str]  # as plan.versions


def this_machine(options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
    """This machine, for a run with these options. device, dtype: taken as they are, where they are known already.

    UsageError for a device or a codec that is not available, MachineError for a number format that it does not support.
    """
    from textsmooth.pipeline.plan.versions import versions
    from textsmooth.stages.models.device import default_threads, pick_device, pick_dtype
    from textsmooth.stages.soft_ids.codec import find_codec

    find_codec(options.codec)  # UsageError where its library is not installed

    chosen = device or pick_device(options.device)
    if device is None and options.dtype is not None:
        check_dtype(chosen, options.dtype)
    return Machine(
        node=platform.node(),
        device=chosen,
        dtype=dtype or options.dtype or pick_dtype(chosen),
        threads=options.threads or default_threads(),
        versions=versions(chosen, options.codec),
    )


def check_dtype(device: str, dtype: str) -> None:
    """MachineError, naming this node, unless its device supports a number format."""
    from textsmooth.stages.models.device import computes, device_name

    if not computes(device, dtype):
        other = "float16 or float32" if device.startswith("cuda") else "float32"
        raise MachineError(
            f"node {platform.node()} cannot do {dtype} on {device} ({device_name(device)}): run on nodes that can, or choose "
            f"--dtype {other}, in another --out if this one was begun"
        )
