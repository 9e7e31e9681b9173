"""Losses of the training objectives: the task's labels, a task teacher's logits, both, or a masked LM's soft ids.

Legend: B rows, L length, C classes, M masked places, E entries of all places, V vocabulary.

Every loss is a float32 sum over units: rows, or masked places. Divided by the number of units of the global batch it is that batch's mean,
however the batch was split among processes and micro-batches. Rows of weight 0 are padding of the batch and do not count.

To add an objective: its facts in `schemas/objectives.py`, a subclass of `Objective` here, and its entry in LOSSES.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.objectives import OBJECTIVES, ObjectiveFacts
from textsmooth.schemas.task_kinds import CLASS, LABEL_KINDS, MASKED_TOKENS, NO_LABELS, SPAN, VALUE, TaskKind
from textsmooth.stages.dataset.collate import Batch, MaskedTargets
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.student_forward import forward, masked_logits


class Objective(ABC):
    """What is minimized: the sum of the losses of a batch's units (rows or masked places), and the number of units."""

    @abstractmethod
    def loss(self, student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
        """The sum of the losses of the batch's units, a float32 scalar. soft: None for plain input."""

    @abstractmethod
    def units(self, batch: Batch) -> float:
        """The number of units of the batch, or the sum of their weights."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What a loss is made from."""

    facts: ObjectiveFacts
    kind: TaskKind  # MASKED_TOKENS for masked objectives
    teacher_share: float  # from 0 to 1
    teacher_temperature: float  # of teacher and student
    vocab_size: int | None  # a masked LM's logits from here on have no teacher's counterpart and are cut off


class _RowLoss(ABC):
    """The losses of each row of a batch, [B] float32, for one kind of labels."""

    @abstractmethod
    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """The distance to the labels; 0 for a row without one."""

    @abstractmethod
    def distilled(self, logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """The distance to the task teacher's logits."""


class _ClassLoss(_RowLoss):
    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="none")

    def distilled(self, logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        """T^2 KL(teacher || student) of tempered logits, as in "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531)."""
        assert batch.teacher_logits is not None
        return _divergence(logits, batch.teacher_logits, temperature, dim=1)


class _ValueLoss(_RowLoss):
    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        assert batch.labels is not None
        labelled = ~batch.labels.isnan()
        return torch.where(labelled, (logits[:, 0] - torch.where(labelled, batch.labels, 0.0)) ** 2, 0.0)

    def distilled(self, logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        assert batch.teacher_logits is not None
        return (logits[:, 0] - batch.teacher_logits[:, 0].float()) ** 2


class _SpanLoss(_RowLoss):
    """Positions of the row are classes; padding takes no part. The mean of start and end."""

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        assert batch.spans is not None
        logprobs = logits.masked_fill(_padding(batch), -torch.inf).log_softmax(1)  # [B, L, 2]
        return -logprobs.gather(1, batch.spans[:, None]).squeeze(1).mean(1)

    def distilled(self, logits: Tensor, batch: Batch, temperature: float) -> Tensor:
        assert batch.teacher_logits is not None
        student, teacher = (values.masked_fill(_padding(batch), -torch.inf) for values in (logits, batch.teacher_logits))
        return _divergence(student, teacher, temperature, dim=1).mean(1)


_ROW_LOSSES: dict[TaskKind, _RowLoss] = {CLASS: _ClassLoss(), VALUE: _ValueLoss(), SPAN: _SpanLoss()}


def _padding(batch: Batch) -> Tensor:
    """[B, L, 1] True where a position is padding."""
    return (batch.attention_mask == 0)[..., None]


def _divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """T^2 KL(teacher || student) along a dimension; logits of -inf, the same in both, take no part."""
    log_p, log_q = (logits.float().div(temperature).log_softmax(dim) for logits in (teacher, student))
    finite = log_p > -torch.inf
    difference = torch.where(finite, log_p, 0.0) - torch.where(finite, log_q, 0.0)
    return temperature**2 * (log_p.exp() * difference).sum(dim)


class _Rows(Objective):
    """(1 - share) * distance to the labels + share * distance to the task teacher. A row without a label has only the latter."""

    def __init__(self, settings: LossSettings) -> None:
        self.facts, self.share, self.temperature = settings.facts, settings.teacher_share, settings.teacher_temperature
        self._row_loss = _ROW_LOSSES[settings.kind]

    def loss(self, student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
        logits = forward(student, batch, soft).float()
        losses = logits.new_zeros(len(batch))
        if self.facts.labels:
            losses = losses + (1.0 - self.share) * self._row_loss.supervised(logits, batch)
        if self.facts.task_teacher:
            losses = losses + self.share * self._row_loss.distilled(logits, batch, self.temperature)
        return losses.sum() if batch.weight is None else (losses * batch.weight).sum()

    def units(self, batch: Batch) -> float:
        weight = torch.ones(len(batch)) if batch.weight is None else batch.weight
        if not self.facts.task_teacher and batch.labels is not None:
            labelled = ~batch.labels.isnan() if batch.labels.is_floating_point() else batch.labels >= 0
            weight = weight * labelled.to(weight)
        return float(weight.sum())


class _MaskedLM(Objective):
    """share * T^2 * cross-entropy with the soft ids + (1 - share) * cross-entropy with the masked token."""

    def __init__(self, settings: LossSettings) -> None:
        self.share, self.temperature, self.vocab_size = settings.teacher_share, settings.teacher_temperature, settings.vocab_size

    def loss(self, student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
        assert batch.masked is not None
        logits = masked_logits(student, batch)[:, : self.vocab_size].float()
        losses = logits.new_zeros(len(logits))
        if self.share > 0:
            losses = losses + self.share * self.temperature**2 * soft_cross_entropy(logits, batch.masked, self.temperature)
        if self.share < 1:
            losses = losses + (1.0 - self.share) * F.cross_entropy(logits, batch.masked.original, reduction="none")
        return losses.sum() if batch.weight is None else (losses * _place_weights(batch)).sum()

    def units(self, batch: Batch) -> float:
        assert batch.masked is not None
        return float(len(batch.masked.places) if batch.weight is None else _place_weights(batch).sum())


# The loss of each objective; schemas/objectives.py has the facts about it.
LOSSES: dict[str, Callable[[LossSettings], Objective]] = {"task": _Rows, "kd": _Rows, "task+kd": _Rows, "mlm": _MaskedLM}


def objective_for(
    name: str, kind: TaskKind = NO_LABELS, *, kd_weight: float = 0.5, kd_temperature: float = 1.0, vocab_size: int | None = None
) -> Objective:
    """The objective of this name for labels of a kind (not used by masked objectives). UsageError if they do not go together.

    kd_weight: the teacher's share of the loss, where the objective has a choice. kd_temperature: of the teacher's and the student's
    logits; of a masked objective that of the batch's targets. vocab_size: number of the teacher's logits; the student's later ones are cut.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} is not one of {', '.join(OBJECTIVES)}")
    facts = OBJECTIVES[name]
    if not facts.masked and kind not in _ROW_LOSSES:
        kinds = ", ".join(LABEL_KINDS)
        raise UsageError(f"objective {name!r} needs labels of kind {kinds}, the dataset has {kind.name or 'none'}; try mlm")
    return LOSSES[name](
        LossSettings(
            facts=facts,
            kind=MASKED_TOKENS if facts.masked else kind,
            teacher_share=kd_weight if facts.teacher_share_is_option else facts.teacher_share,
            teacher_temperature=kd_temperature,
            vocab_size=vocab_size,
        )
    )


def _place_weights(batch: Batch) -> Tensor:
    """[M] the weight of each masked place's row."""
    assert batch.masked is not None and batch.weight is not None
    return batch.weight[batch.masked.places // batch.input_ids.shape[1]]


def soft_cross_entropy(logits: Tensor, targets: MaskedTargets, temperature: float) -> Tensor:
    """-sum_i p_i log q_i - p_tail log q_tail of each place, [M] float32; all ids that are no entries form one bucket, the tail.

    logits: [M, V]. q: their softmax at the temperature. The tail's log-sum-exp is taken over the tail itself, not as a difference to 1:
    exact and with a finite gradient, however little mass is in it. Where all of V are entries there is no tail.
    """
    z_MV = logits.float() / temperature
    counts = targets.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=len(targets.ids))
    z_E = z_MV[owner, targets.ids]
    # finite, because the gradient of a log-sum-exp over nothing but -inf is NaN
    lowest = torch.finfo(torch.float32).min
    lse_tail = z_MV.clamp_min(lowest).index_put_((owner, targets.ids), z_MV.new_tensor(lowest)).logsumexp(1)
    highest = z_MV.new_full((len(counts),), -torch.inf).scatter_reduce(0, owner, z_E.detach(), "amax")
    mass = z_MV.new_zeros(len(counts)).index_add(0, owner, (z_E - highest[owner]).exp())
    lse = torch.logaddexp(lse_tail, highest + mass.log())
    # an entry without probability adds nothing, also where the student gives it none: 0 log 0 = 0
    losses_E = targets.probs * torch.where(targets.probs > 0, lse[owner] - z_E, 0.0)
    entries = z_MV.new_zeros(len(counts)).index_add(0, owner, losses_E)
    return entries + torch.where(lse_tail > lowest / 2, targets.tail * (lse - lse_tail), 0.0)
