"""Update a student: forms of input, global batches in parts, AdamW, learning rate.

The loss of an update is the sum over all units (rows; masked places) of the global batch, divided by their number: the number of processes
that share the batch, and of parts in which each computes its share, changes nothing but rounding. No random generator has a state: the
dropout of each part is a function of (seed, update, process, part).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from textsmooth.schemas.errors import MachineError, TextsmoothError
from textsmooth.stages.dataset.collate import Batch
from textsmooth.stages.training.distributed import LostError, World
from textsmooth.stages.training.losses import Objective
from textsmooth.stages.training.lr_schedule import rate
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.student_forward import autocast

# One optimizer update per entry and batch. `both` is the published scheme: an update on the plain batch, then one on the smoothed batch.
# In a `mixed` batch the collator leaves half of the rows plain.
PASSES: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "smoothed": ("smoothed",),
    "both": ("plain", "smoothed"),
    "mixed": ("smoothed",),
    "masked": ("masked",),
}
_ROWS_NAMED = 8


class TrainingError(TextsmoothError):
    """Training cannot go on: the loss or its gradient is not a number."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """Report of one optimizer update, for the whole global batch."""

    number: int  # from 1
    form: str  # `plain`, `smoothed` or `masked`
    loss: float
    lr: float
    grad_norm: float  # before clipping
    rows: int
    tokens: int  # without padding
    asked_to_stop: bool  # any process has been asked to stop


def counted(batch: Batch) -> tuple[int, int]:
    """The number of rows and tokens of a batch, without the rows that only fill it up."""
    if batch.weight is None:
        return len(batch), batch.tokens
    real = batch.weight > 0
    return int(real.sum()), int(batch.attention_mask[real].sum())


class TrainStep:
    """Updates a student with AdamW (no weight decay for biases and norms), a learning-rate schedule and clipped gradients.

    soft: needed if any pass is `smoothed`. reads: a key of PASSES. steps: the updates of the whole run; warmup: the share of them with a
    rising learning rate. `done` is the number of updates made: to resume, set it and restore weights and optimizer.
    """

    def __init__(
        self,
        student: Any,
        objective: Objective,
        *,
        soft: SoftEmbedding | None,
        reads: str,
        lr: float,
        weight_decay: float,
        warmup: float,
        steps: int,
        schedule: str = "linear",
        max_grad_norm: float | None = 1.0,
        dtype: str = "float32",
        seed: int = 0,
        world: World | None = None,
    ) -> None:
        self.student = student
        self.objective = objective
        self.soft = soft
        self.passes = PASSES[reads]
        self.max_grad_norm = math.inf if max_grad_norm is None else max_grad_norm
        self.dtype = dtype
        self.seed = seed
        self.world = world or World()
        self.device = next(student.parameters()).device
        self.learning = [p for p in student.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.learning if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in self.learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # the fused kernel is 7 x faster on a vocabulary-sized table, also on CPU
        self.optimizer = torch.optim.AdamW(groups, lr=lr, fused=self.device.type in ("cpu", "cuda"))
        self.steps = steps
        self.done = 0
        self._rate = {"lr": lr, "warmup": warmup, "schedule": schedule}

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return rate(self.done, self.steps, **self._rate)  # type: ignore[arg-type]

    def update(self, parts: Sequence[Batch], form: str, *, stop: bool = False) -> Update:
        """One update on this process's parts of a global batch. stop: whether this process was asked to stop.

        TrainingError if the loss or the gradient is not finite; the student is then unchanged. MachineError if memory runs out.
        """
        facts = [(self.objective.units(part), *counted(part)) for part in parts]
        units, rows, tokens, asked = self.world.sum([float(sum(column)) for column in zip(*facts, strict=True)] + [float(stop)])
        try:
            loss = self._backward(parts, form, max(units, 1.0))
            self.world.sum_gradients(self.learning)
            norm = torch.nn.utils.clip_grad_norm_(self.learning, self.max_grad_norm)
            value, grad_norm = torch.stack([loss, norm]).tolist()  # the only synchronization with the device
            (value,) = self.world.sum([value])
            for what, number in (("loss", value), ("gradient norm", grad_norm)):
                if not math.isfinite(number):
                    raise self._not_finite(what, number, parts, form)
            lr = self.lr
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise self._too_large(parts) from error
        finally:
            self.optimizer.zero_grad()
        self.done += 1
        return Update(
            number=self.done,
            form=form,
            loss=value,
            lr=lr,
            grad_norm=grad_norm,
            rows=int(rows),
            tokens=int(tokens),
            asked_to_stop=asked > 0,
        )

    def _backward(self, parts: Sequence[Batch], form: str, units: float) -> torch.Tensor:
        """Add the gradients of the parts' share in the mean loss over `units`; return that share, float32."""
        self.student.train()
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            torch.manual_seed(_seed_of(self.seed, self.done, self.world.rank, number))  # of dropout
            with autocast(self.device, self.dtype):
                loss = self.objective.loss(self.student, part.to(self.device), self.soft if form == "smoothed" else None) / units
            if loss.requires_grad:  # no gradient if all rows of the part have weight 0
                loss.backward()
            total += loss.detach()
        return total

    def _not_finite(self, what: str, value: float, parts: Sequence[Batch], form: str) -> TrainingError:
        own = [int(row) for part in parts for row in part.rows.tolist()]
        rows = self.world.gather(own, _ROWS_NAMED)
        (count,) = self.world.sum([float(len(own))])
        more = f" and {int(count) - len(rows[:_ROWS_NAMED])} more" if count > _ROWS_NAMED else ""
        return TrainingError(
            f"the {what} became {value} in update {self.done + 1} on {form} input (batch {parts[0].step}, "
            f"rows {', '.join(map(str, rows[:_ROWS_NAMED]))}{more}); this update changed nothing; lower --lr, or look at these rows"
        )

    def _too_large(self, parts: Sequence[Batch]) -> MachineError:
        largest = max(parts, key=lambda part: part.input_ids.numel())
        rows, length = largest.input_ids.shape
        return MachineError(
            f"out of memory in update {self.done + 1}, on {rows} rows of {length} tokens: raise --accumulate (the same result in smaller "
            "parts), or choose a smaller --batch-size or --batch-tokens, or --dtype bfloat16"
        )


def _seed_of(*values: int) -> int:
    """A generator's seed (63 bits), a function of the values."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, values)).encode()).digest()[:8], "little") >> 1


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, LostError):
        return False
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
