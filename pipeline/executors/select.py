"""Choose the executor that the options ask for."""

import importlib.util
import os
from pathlib import Path

from textsmooth.pipeline.executors.base import Executor
from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.executors.ray_driver import RayExecutor
from textsmooth.schemas.config import GenerateOptions, workers
from textsmooth.schemas.errors import UsageError


def executor(options: GenerateOptions) -> Executor:
    """The executor that a run asks for: Ray where a cluster is named, several GPUs are visible, or several workers are asked for.

    UsageError if Ray is not installed.
    """
    if not _on_ray(options):
        return Inline()
    if importlib.util.find_spec("ray") is None:
        raise UsageError('--executor ray needs Ray: pip install "textsmooth[ray]"')
    return RayExecutor(options)


def _on_ray(options: GenerateOptions) -> bool:
    if options.executor != "auto":
        return options.executor == "ray"
    if options.ray_address or os.environ.get("RAY_ADDRESS") or options.ship_code or options.gpus_per_worker or options.cpus_per_worker:
        return True
    if options.num_workers is not None:
        return workers(options.num_workers)[1] > 1
    return options.device is None and _gpus() > 1


def _gpus() -> int:
    """Visible to this process; torch is not loaded for it where there is no driver."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return 0
    import torch

    return torch.cuda.device_count()
