"""What a user may set of a training run, checked when it is put together."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.objectives import OBJECTIVES, ObjectiveFacts
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.type_checks import check_types

INPUTS = ("plain", "smoothed", "both", "mixed")
SCHEDULES = ("linear", "cosine", "constant")
TRAIN_DTYPES = ("float32", "bfloat16")
PROGRESS_MODES = ("auto", "rich", "json", "none")
# A run may be resumed with others of these: where and how it is computed. Without dropout that moves the result by rounding.
MAY_CHANGE = (
    "dataset",  # its digest is compared, not its place
    "student",  # the same
    "student_revision",
    "out",
    "accumulate",
    "checkpoint_every",
    "resume",
    "overwrite",
    "log_dir",
    "loader_workers",
    "num_workers",
    "threads",
    "device",
    "progress",
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `textsmooth train` was asked for. None stands for `auto`. UsageError for what cannot be."""

    dataset: str
    student: str
    student_revision: str | None = None  # of a student on the Hub
    out: str | None = None  # students/<dataset>-<inputs>, with the objective's name unless it is `task`
    # what the student reads
    inputs: str | None = None  # smoothed; of mlm, whose text is masked, none
    lam: float | str = 0.5  # a number, or of each example its own: `uniform`, `beta:A`
    temperature: float = 1.0
    topk: int | None = None
    mass: float = 1.0
    tail: str = Smoothing.tail
    draws: int | None = None
    # what it learns
    objective: str = "task"
    kd_weight: float | None = None  # share of the teacher in the loss of task+kd and mlm: 0.5
    kd_temperature: float = 2.0
    # how long, on what
    epochs: int = 3
    max_steps: int | None = None  # updates in all, instead of epochs
    max_rows: int | None = None  # the first so many rows of the training split
    rows_per_class: int | None = None  # the first so many labelled rows of each class
    batch_size: int | None = None  # rows; 32 unless there is batch_tokens
    batch_tokens: int | None = None  # padded tokens, in batches of similar length
    accumulate: int = 1  # parts that a batch is worked in, for less memory: the result is the same
    # the optimizer
    lr: float = 5e-5  # at the end of the warm-up
    warmup: float = 0.1  # share of all updates
    schedule: str = "linear"  # after the warm-up
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0  # None: gradients are not clipped
    dropout: float | None = None  # None: as the student's configuration says
    seed: int = 0
    dtype: str = "float32"  # of the student's computation; weights and optimizer stay float32
    # evaluation, checkpoints, logs
    eval_split: str | None = None
    eval_every: int | None = None  # updates; None: at the end of each epoch
    patience: int | None = None  # evaluations without a better score before it stops; the best state is then what is saved
    checkpoint_every: int | None = None  # updates; None: at each evaluation
    resume: bool = False
    overwrite: bool = False
    log_dir: str | None = None  # of TensorBoard events
    progress: str = "auto"
    # the machine
    loader_workers: int = 0  # processes that make batches; 0: this one
    num_workers: int = 1  # processes that train, by Ray Train
    threads: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        choices = (
            ("inputs", INPUTS),
            ("objective", tuple(OBJECTIVES)),
            ("schedule", SCHEDULES),
            ("dtype", TRAIN_DTYPES),
            ("progress", PROGRESS_MODES),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed and (name, self.inputs) != ("inputs", None):
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in (
            *("epochs", "max_steps", "max_rows", "rows_per_class", "batch_size", "batch_tokens", "accumulate"),
            *("eval_every", "patience", "checkpoint_every", "num_workers", "threads"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} must be a whole number of at least 1, not {value}")
        for name in ("seed", "loader_workers"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name.replace('_', '-')} must be at least 0, not {getattr(self, name)}")
        if self.batch_size is not None and self.batch_tokens is not None:
            raise UsageError("batch-size and batch-tokens exclude each other: give one of them")
        self._check_numbers()
        self._check_objective()
        if self.inputs is None and not self.facts.masked:
            object.__setattr__(self, "inputs", "smoothed")
        if self.kd_weight is None and self.facts.teacher_share_is_option:  # recorded, so that a resumed run uses the same
            object.__setattr__(self, "kd_weight", self.facts.teacher_share)
        _ = self.smoothing  # its own checks

    def _check_numbers(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr must be a finite number above 0, not {self.lr:g}")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is a share of all updates, at least 0 and below 1, not {self.warmup:g}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(f"weight-decay must be a finite number of at least 0, not {self.weight_decay:g}")
        if self.max_grad_norm is not None and not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            raise UsageError(f"max-grad-norm must be a finite number above 0, or none, not {self.max_grad_norm:g}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")

    def _check_objective(self) -> None:
        if self.kd_weight is not None and not 0 <= self.kd_weight <= 1:
            raise UsageError(f"kd-weight is the teacher's share of the loss, from 0 to 1, not {self.kd_weight:g}")
        if self.kd_weight is not None and not self.facts.teacher_share_is_option:
            weighted = " and ".join(name for name, facts in OBJECTIVES.items() if facts.teacher_share_is_option)
            raise UsageError(f"kd-weight has no effect with --objective {self.objective}, only with {weighted}; remove it")
        if not (math.isfinite(self.kd_temperature) and self.kd_temperature > 0):
            raise UsageError(f"kd-temperature must be a finite number above 0, not {self.kd_temperature:g}")
        for name in self.facts.ignored:
            if (value := getattr(self, name)) != getattr(TrainOptions, name):
                reads = ", which reads masked text" if self.facts.masked else ""
                raise UsageError(f"--{name.replace('_', '-')} {value} has no effect with --objective {self.objective}{reads}; remove it")

    @property
    def facts(self) -> ObjectiveFacts:
        """What is known about the objective."""
        return OBJECTIVES[self.objective]

    @property
    def rows_per_batch(self) -> int | None:
        """Rows of a batch; None if batches are made by tokens."""
        return None if self.batch_tokens is not None else self.batch_size or 32

    @property
    def reads(self) -> str:
        """What the student reads: `masked` text, or one of INPUTS."""
        return self.inputs or "masked"

    @property
    def teacher_share(self) -> float:
        """The teacher's share of the loss."""
        return self.facts.teacher_share if self.kd_weight is None else self.kd_weight

    @property
    def teacher_temperature(self) -> float:
        """The temperature at which teacher and student are compared: that of the soft ids, or of a task teacher's logits."""
        return self.temperature if self.facts.masked else self.kd_temperature

    @property
    def smoothing(self) -> Smoothing:
        return Smoothing(
            lam=self.lam,
            temperature=self.temperature,
            topk=self.topk,
            mass=self.mass,
            tail=self.tail,
            draws=self.draws,
            smoothed_share=0.5 if self.inputs == "mixed" else 1.0,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def fixed(self) -> dict[str, Any]:
        """What a run may only be resumed with, by its name on the command line."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items() if name not in MAY_CHANGE}
