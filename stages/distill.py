"""What a student is trained on: the forms of input, the objective, and one optimizer update.

Legend: B rows, L length, C classes.
"""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from textsmooth.schemas.errors import TextsmoothError
from textsmooth.stages.collate import Batch
from textsmooth.stages.smooth import SoftEmbedding

# One optimizer update per entry and batch. `both` is the published scheme: an update on the plain batch, then one on the smoothed.
PASSES: dict[str, tuple[str, ...]] = {"plain": ("plain",), "smoothed": ("smoothed",), "both": ("plain", "smoothed")}
MAX_GRAD_NORM = 1.0
_ROWS_NAMED = 8


class TrainingError(TextsmoothError):
    """Training cannot go on: the loss or its gradient is not a number."""


class Objective(Protocol):
    """The seam for training objectives: from the student's logits of a batch to a loss to minimise."""

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """A float32 scalar."""
        ...


def task_objective(label_kind: str) -> Objective:
    """The loss of the task on its own labels: cross-entropy for `class` (logits [B, C]), squared error for `value` ([B, 1])."""

    def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        return F.cross_entropy(logits.float(), batch.labels)

    def squared_error(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        return F.mse_loss(logits.float().squeeze(-1), batch.labels)

    return {"class": cross_entropy, "value": squared_error}[label_kind]


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Matrix products in `dtype` (float32: as they are); weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def takes_token_types(student: Any) -> bool:
    """Whether segments mean anything to the student: DistilBERT has none, RoBERTa just one."""
    return "token_type_ids" in inspect.signature(student.forward).parameters and getattr(student.config, "type_vocab_size", 2) > 1


def forward(student: Any, batch: Batch, soft: SoftEmbedding | None) -> torch.Tensor:
    """The student's logits [B, C]: of the plain ids, or, with `soft`, of the batch's soft ids."""
    inputs: dict[str, torch.Tensor] = {"attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None and takes_token_types(student):
        inputs["token_type_ids"] = batch.token_type_ids
    if soft is None:
        inputs["input_ids"] = batch.input_ids
    else:
        assert batch.soft is not None
        inputs["inputs_embeds"] = soft(batch.soft)
    logits: torch.Tensor = student(**inputs).logits
    return logits


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one optimizer update reports."""

    form: str  # `plain` or `smoothed`
    loss: float
    lr: float


class Distiller:
    """Updates a student: AdamW (no decay for biases and norms), linear warm-up then linear decay to 0, clipped gradients.

    soft: needed if any pass is `smoothed`. steps: updates of the whole run; warmup: the share of them with a rising rate.
    """

    def __init__(
        self,
        student: Any,
        objective: Objective,
        *,
        soft: SoftEmbedding | None,
        inputs: str,
        lr: float,
        weight_decay: float,
        warmup: float,
        steps: int,
        dtype: str = "float32",
    ) -> None:
        from transformers import get_linear_schedule_with_warmup

        self.student = student
        self.objective = objective
        self.soft = soft
        self.passes = PASSES[inputs]
        self.dtype = dtype
        self.device = next(student.parameters()).device
        learning = [p for p in student.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # the fused kernel is 7 x faster on a vocabulary-sized table, also on CPU
        self.optimizer = torch.optim.AdamW(groups, lr=lr, fused=self.device.type in ("cpu", "cuda"))
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, int(warmup * steps), steps)
        self.steps = steps
        self.done = 0

    def updates(self, batch: Batch) -> Iterator[Update]:
        """Train on one batch, one update for each pass, as long as updates are left. TrainingError if the loss is not finite."""
        for form in self.passes:
            if self.done < self.steps:
                yield self._update(batch, form)

    def _update(self, batch: Batch, form: str) -> Update:
        self.student.train()
        with autocast(self.device, self.dtype):
            logits = forward(self.student, batch, self.soft if form == "smoothed" else None)
        loss = self.objective(logits, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._stopped("loss", value, batch, form)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRAD_NORM))
        if not math.isfinite(norm):
            raise self._stopped("gradient norm", norm, batch, form)
        lr = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.done += 1
        return Update(form=form, loss=value, lr=lr)

    def _stopped(self, what: str, value: float, batch: Batch, form: str) -> TrainingError:
        rows = ", ".join(str(row) for row in batch.rows[:_ROWS_NAMED].tolist())
        more = f" and {len(batch) - _ROWS_NAMED} more" if len(batch) > _ROWS_NAMED else ""
        return TrainingError(
            f"the {what} became {value} in update {self.done + 1} on {form} input (rows {rows}{more}); "
            "nothing was saved; lower --lr, or look at these rows"
        )
