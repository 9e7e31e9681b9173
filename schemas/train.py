"""What a user may set of a training run, checked when it is put together."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.smoothing import Smoothing

INPUTS = ("plain", "smoothed", "both")
TRAIN_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `textsmooth train` was asked for. None stands for `auto`."""

    dataset: str
    student: str
    out: str | None = None  # students/<dataset>-<inputs>
    inputs: str = "smoothed"
    lam: float = 0.5
    temperature: float = 1.0
    topk: int | None = None
    mass: float = 1.0
    tail: str = "renormalize"
    epochs: int = 3
    max_steps: int | None = None  # updates in all, instead of epochs
    max_rows: int | None = None  # the first so many rows of the training split
    batch_size: int = 32  # rows
    lr: float = 5e-5  # at the end of the warm-up
    warmup: float = 0.1  # share of all updates
    weight_decay: float = 0.01
    seed: int = 0
    dtype: str = "float32"  # of the student's computation; weights and optimizer stay float32
    eval_split: str | None = None
    threads: int | None = None
    device: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("inputs", INPUTS), ("dtype", TRAIN_DTYPES)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in ("epochs", "max_steps", "max_rows", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} must be a whole number of at least 1, not {value}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr must be a finite number above 0, not {self.lr:g}")
        if not (0 <= self.warmup < 1):
            raise UsageError(f"warmup is a share of all updates, at least 0 and below 1, not {self.warmup:g}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(f"weight-decay must be a finite number of at least 0, not {self.weight_decay:g}")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, not {self.seed}")
        _ = self.smoothing  # its own checks

    @property
    def smoothing(self) -> Smoothing:
        return Smoothing(lam=self.lam, temperature=self.temperature, topk=self.topk, mass=self.mass, tail=self.tail)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
