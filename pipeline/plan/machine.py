"""What the machine that will do the work has: asked there, a head node may have none of it."""

import platform
from dataclasses import dataclass

from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import MachineError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The answers to `auto` on one machine, and what runs there."""

    node: str  # its name, for messages
    device: str  # cpu, cuda, cuda:1
    dtype: str
    threads: int  # CPU threads of one worker
    versions: dict[str, str]  # as plan.versions


def look(options: GenerateOptions, *, device: str | None = None, dtype: str | None = None) -> Machine:
    """This machine, for a run that was asked for so. device, dtype: taken as they are, where they are settled already.

    UsageError for a device that is not here, MachineError for a number format that it has not.
    """
    from textsmooth.pipeline.plan.versions import versions
    from textsmooth.stages.models.device import default_threads, pick_device, pick_dtype

    found = device or pick_device(options.device)
    if device is None and options.dtype is not None:
        check(found, options.dtype)
    return Machine(
        node=platform.node(),
        device=found,
        dtype=dtype or options.dtype or pick_dtype(found),
        threads=options.threads or default_threads(),
        versions=versions(found),
    )


def check(device: str, dtype: str) -> None:
    """MachineError, naming this node, unless its device computes in a number format."""
    from textsmooth.stages.models.device import computes, device_name

    if not computes(device, dtype):
        other = "float16 or float32" if device.startswith("cuda") else "float32"
        raise MachineError(
            f"node {platform.node()} cannot do {dtype} on {device} ({device_name(device)}): run on nodes that can, or choose "
            f"--dtype {other}, in another --out if this one was begun"
        )
