"""Choose the executor of a run."""

import importlib.util
import os
from pathlib import Path

from textsmooth.pipeline.executors.base import Executor
from textsmooth.pipeline.executors.inline import Inline
from textsmooth.pipeline.executors.ray_driver import RayExecutor
from textsmooth.schemas.config import GenerateOptions, workers
from textsmooth.schemas.errors import UsageError


def select_executor(options: GenerateOptions) -> Executor:
    """The executor of a run: Ray if the options name a cluster or several workers, or several GPUs are visible; else inline.

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
    """Number of GPUs visible to this process. torch is not loaded where there is no driver."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return 0
    import torch

    return torch.cuda.device_count()
