"""Options of a training run: a frozen dataclass that checks its values when it is constructed."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from textsmooth.schemas.config import PROGRESS_MODES
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.objectives import OBJECTIVES, ObjectiveFacts
from textsmooth.schemas.options import REQUIRED, OptionalPath, RequiredPath, check_options, described, number, option, to_text, whole
from textsmooth.schemas.smoothing import TAILS, Smoothing

INPUTS = ("plain", "smoothed", "both", "mixed")
SCHEDULES = ("linear", "cosine", "constant")
TRAIN_DTYPES = ("float32", "bfloat16")
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


_INPUT = {"group": "Input"}
_LOSS = {"group": "Loss"}
_LENGTH = {"group": "Length and batches"}
_OPTIMIZER = {"group": "Optimizer"}
_LOGS = {"group": "Evaluation, checkpoints, logs"}
_MACHINE = {"group": "Machine"}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of `textsmooth train`; the command line and textsmooth.pipeline.train() are made from these fields. None: see `unset`.

    UsageError for values that are not allowed.
    """

    dataset: RequiredPath = field(
        default=REQUIRED, kw_only=False, metadata=described(help="Smoothed dataset: a folder, s3://…, gs://…, OWNER/NAME.", convert=to_text)
    )
    student: RequiredPath = option(
        REQUIRED,
        help="Model to train: a folder with safetensors and tokenizer, or OWNER/NAME on the Hub.",
        metavar="MODEL",
        convert=to_text,
    )
    student_revision: str | None = option(None, help="Branch, tag or commit of a student on the Hub.", unset="main")
    out: OptionalPath = option(
        None, help="Folder for the trained student.", metavar="FOLDER", unset="students/<dataset>-<inputs>", convert=to_text
    )

    inputs: str | None = option(
        None,
        help="What the student reads. both: an update on plain text, then one on smoothed text per batch; mixed: one of them, drawn "
        "for each row. Not with --objective mlm.",
        unset="smoothed",
        choices=INPUTS,
        **_INPUT,
    )
    lam: float | str = option(
        0.5, help="Smoothing rate: weight of the soft ids against the token itself, from 0 to 1; by row: uniform, beta:A.", **_INPUT
    )
    temperature: float = option(
        1.0, help="Temperature of the soft ids: 1 or one of --temperatures of the dataset are exact, others are interpolated.", **_INPUT
    )
    topk: int | None = option(None, help="Use at most this many entries per token.", unset="all stored", **_INPUT)
    mass: float = option(1.0, help="Use the fewest entries whose probabilities sum to this, from 0 to 1.", **_INPUT)
    tail: str = option(
        Smoothing.tail,
        help="What receives the probability outside the entries: the entries themselves, the original token, the mean embedding.",
        choices=TAILS,
        **_INPUT,
    )
    draws: int | None = option(None, help="Draw this many ids from each token's distribution instead of using its entries.", **_INPUT)

    objective: str = option(
        "task", help="Loss: labels, a task teacher's logits, both, or masked tokens (--context masked:N).", choices=OBJECTIVES, **_LOSS
    )
    kd_weight: float | None = option(None, help="Weight of the teacher in the loss of task+kd and mlm, from 0 to 1.", unset="0.5", **_LOSS)
    kd_temperature: float = option(2.0, help="Temperature of the task teacher's and the student's logits.", check=number(above=0), **_LOSS)

    epochs: int = option(3, help="Number of training epochs.", check=whole(1), **_LENGTH)
    max_steps: int | None = option(None, help="Number of optimizer updates, instead of --epochs.", check=whole(1), **_LENGTH)
    max_rows: int | None = option(None, help="Train on the first N rows only.", unset="all", check=whole(1), **_LENGTH)
    rows_per_class: int | None = option(
        None, help="Train on the first N labeled rows of each class only.", unset="all", check=whole(1), **_LENGTH
    )
    batch_size: int | None = option(None, help="Rows per batch.", unset="32", check=whole(1), **_LENGTH)
    batch_tokens: int | None = option(
        None, help="Tokens per batch of rows of similar length, padding included; instead of --batch-size.", check=whole(1), **_LENGTH
    )
    accumulate: int = option(
        1, help="Split a batch into N parts and accumulate their gradients: same result, less memory.", check=whole(1), **_LENGTH
    )

    lr: float = option(5e-5, help="Learning rate after warm-up.", check=number(above=0), **_OPTIMIZER)
    warmup: float = option(0.1, help="Share of all updates in which the learning rate warms up.", **_OPTIMIZER)
    schedule: str = option("linear", help="Learning-rate schedule after warm-up.", choices=SCHEDULES, **_OPTIMIZER)
    weight_decay: float = option(0.01, help="AdamW weight decay; none for biases and norms.", check=number(least=0), **_OPTIMIZER)
    max_grad_norm: float | None = option(
        1.0, help="Clip the gradient norm to this value; none: do not clip.", none_word="none", **_OPTIMIZER
    )
    dropout: float | None = option(None, help="Dropout of the student.", unset="that of its configuration", **_OPTIMIZER)
    seed: int = option(0, help="Seed of row order, new head, dropout and draws.", check=whole(0), **_OPTIMIZER)
    dtype: str = option(
        "float32", help="Number format of matrix products; weights and optimizer stay float32.", choices=TRAIN_DTYPES, **_OPTIMIZER
    )

    eval_split: str | None = option(None, help="Split to evaluate on.", unset="the validation split", **_LOGS)
    eval_every: int | None = option(None, help="Updates between evaluations.", unset="one epoch", check=whole(1), **_LOGS)
    patience: int | None = option(
        None,
        help="Stop after N evaluations without a better score, and save the best student.",
        unset="never",
        check=whole(1),
        **_LOGS,
    )
    checkpoint_every: int | None = option(None, help="Updates between checkpoints.", unset="at each evaluation", check=whole(1), **_LOGS)
    resume: bool = option(
        False, help="With --overwrite: resume a run with the same settings instead of replacing it. Without, that is the default.", **_LOGS
    )
    overwrite: bool = option(False, help="Replace the student in --out, and an unfinished run.", **_LOGS)
    log_dir: OptionalPath = option(None, help="Folder for TensorBoard events.", unset="none", convert=to_text, **_LOGS)
    progress: str = option("auto", help="How to show progress on stderr.", choices=PROGRESS_MODES, **_LOGS)

    loader_workers: int = option(
        0, help="Number of processes that prepare batches; 0: the training process itself.", check=whole(0), **_MACHINE
    )
    num_workers: int = option(1, help="Number of training processes, on Ray Train.", check=whole(1), **_MACHINE)
    threads: int | None = option(None, help="CPU threads.", unset="all", check=whole(1), **_MACHINE)
    device: str | None = option(None, help="Device: cpu, cuda, cuda:1, mps.", unset="cuda if available, else cpu", **_MACHINE)

    def __post_init__(self) -> None:
        check_options(self)
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
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is a share of all updates, at least 0 and below 1, not {self.warmup:g}")
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

    @property
    def continues(self) -> bool:
        """Whether an unfinished or finished run with these settings counts; otherwise it is replaced."""
        return self.resume or not self.overwrite

    @property
    def way_on(self) -> str:
        """How an interrupted run is continued."""
        return "the same command goes on" if self.continues else "the same command without --overwrite goes on"

    def fixed(self) -> dict[str, Any]:
        """What a run may only be resumed with, by its name on the command line."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items() if name not in MAY_CHANGE}
