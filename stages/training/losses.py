"""What a student learns from: the task's labels, a task teacher's logits, both, or a masked LM's soft ids.

Legend: B rows, L length, C classes, M masked places, E entries of all places, V vocabulary.

Every loss is a sum over units, in float32: rows, or masked places. Divided by the units of the whole global batch it is that batch's
mean, however the batch was split among processes and micro-batches. Rows of weight 0 count nowhere.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.train import OBJECTIVES
from textsmooth.stages.dataset.collate import Batch, MaskedTargets
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.student_forward import forward, masked_logits


class Objective(ABC):
    """What is minimised: a sum over units, and how many units there are."""

    @abstractmethod
    def loss(self, student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
        """The float32 scalar sum of the losses of the batch's units; plain input without `soft`."""

    @abstractmethod
    def units(self, batch: Batch) -> float:
        """How many units the batch has."""


def objective_for(
    kind: str, label_kind: str | None, *, kd_weight: float = 0.5, kd_temperature: float = 1.0, vocab_size: int | None = None
) -> Objective:
    """The objective `kind` for labels of `label_kind` (class, value or span; mlm needs none). UsageError for another one.

    kd_weight: share of the teacher in `task+kd`, and of its soft ids, against the masked token, in `mlm`. kd_temperature: of the teacher's
    and the student's logits; for `mlm` that of the batch's targets. vocab_size: ids that `mlm` leaves out begin here, as with the teacher.
    """
    if kind not in OBJECTIVES:
        raise UsageError(f"objective {kind!r} is not one of {', '.join(OBJECTIVES)}")
    if kind == "mlm":
        return _MaskedLM(kd_weight, kd_temperature, vocab_size)
    if label_kind not in _TASK:
        raise UsageError(f"objective {kind!r} needs labels of kind {', '.join(_TASK)}, the dataset has {label_kind or 'none'}; try mlm")
    share = {"task": 0.0, "kd": 1.0, "task+kd": kd_weight}[kind]
    return _Rows(kind, label_kind, share, kd_temperature)


def _padding(batch: Batch) -> Tensor:
    return batch.attention_mask == 0


def _cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    assert batch.labels is not None
    return F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="none")


def _squared_error(logits: Tensor, batch: Batch) -> Tensor:
    assert batch.labels is not None
    there = ~batch.labels.isnan()
    return torch.where(there, (logits[:, 0] - torch.where(there, batch.labels, 0.0)) ** 2, 0.0)


def _span_error(logits: Tensor, batch: Batch) -> Tensor:
    """Mean of the cross-entropies of start and end over the row's own positions: what pads the row has no part in it."""
    assert batch.spans is not None
    logprobs = logits.masked_fill(_padding(batch)[..., None], -torch.inf).log_softmax(1)  # [B, L, 2]
    return -logprobs.gather(1, batch.spans[:, None]).squeeze(1).mean(1)


def _distilled_class(logits: Tensor, batch: Batch, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of tempered logits, as in "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531)."""
    assert batch.teacher_logits is not None
    return _divergence(logits, batch.teacher_logits, temperature, dim=1)


def _distilled_value(logits: Tensor, batch: Batch, temperature: float) -> Tensor:
    assert batch.teacher_logits is not None
    return (logits[:, 0] - batch.teacher_logits[:, 0].float()) ** 2


def _distilled_span(logits: Tensor, batch: Batch, temperature: float) -> Tensor:
    """As for classes, the row's positions being the classes; the mean of start and end."""
    assert batch.teacher_logits is not None
    pads = _padding(batch)[..., None]
    found = _divergence(logits.masked_fill(pads, -torch.inf), batch.teacher_logits.masked_fill(pads, -torch.inf), temperature, dim=1)
    return found.mean(1)


def _divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """T^2 KL(teacher || student) along a dimension; classes of logit -inf, the same in both, have no part in it."""
    log_p, log_q = (logits.float().div(temperature).log_softmax(dim) for logits in (teacher, student))
    there = log_p > -torch.inf
    difference = torch.where(there, log_p, 0.0) - torch.where(there, log_q, 0.0)
    return temperature**2 * (log_p.exp() * difference).sum(dim)


_TASK = {"class": _cross_entropy, "value": _squared_error, "span": _span_error}
_DISTILLED = {"class": _distilled_class, "value": _distilled_value, "span": _distilled_span}


class _Rows(Objective):
    """(1 - share) * the task's loss + share * the distance to the task teacher. A row without label has only the latter."""

    def __init__(self, kind: str, label_kind: str, share: float, temperature: float) -> None:
        self.kind, self.share, self.temperature = kind, share, temperature
        self._task, self._distilled = _TASK[label_kind], _DISTILLED[label_kind]

    def loss(self, student: Any, batch: Batch, soft: SoftEmbedding | None) -> Tensor:
        logits = forward(student, batch, soft).float()
        losses = logits.new_zeros(len(batch))
        if self.kind != "kd":
            losses = losses + (1.0 - self.share) * self._task(logits, batch)
        if self.kind != "task":
            losses = losses + self.share * self._distilled(logits, batch, self.temperature)
        return losses.sum() if batch.weight is None else (losses * batch.weight).sum()

    def units(self, batch: Batch) -> float:
        weight = torch.ones(len(batch)) if batch.weight is None else batch.weight
        if self.kind == "task" and batch.labels is not None:
            there = ~batch.labels.isnan() if batch.labels.is_floating_point() else batch.labels >= 0
            weight = weight * there.to(weight)
        return float(weight.sum())


class _MaskedLM(Objective):
    """share * T^2 * cross-entropy with the soft ids + (1 - share) * cross-entropy with the masked token."""

    def __init__(self, share: float, temperature: float, vocab_size: int | None) -> None:
        self.share, self.temperature, self.vocab_size = share, temperature, vocab_size

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


def _place_weights(batch: Batch) -> Tensor:
    """[M] the weight of each masked place's row."""
    assert batch.masked is not None and batch.weight is not None
    return batch.weight[batch.masked.places // batch.input_ids.shape[1]]


def soft_cross_entropy(logits: Tensor, targets: MaskedTargets, temperature: float) -> Tensor:
    """-sum_i p_i log q_i - p_tail log q_tail of each place, [M] float32: everything that is no entry is one bucket.

    logits: [M, V]. q: their softmax at the temperature. The tail's log-sum-exp is taken over the tail itself, never as a difference to 1:
    exact, with a finite gradient, however little is in it. Where all of V are entries there is no tail.
    """
    z_MV = logits.float() / temperature
    counts = targets.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=len(targets.ids))
    z_E = z_MV[owner, targets.ids]
    lse_tail = z_MV.index_put((owner, targets.ids), z_MV.new_tensor(-torch.inf)).logsumexp(1)
    highest = z_MV.new_full((len(counts),), -torch.inf).scatter_reduce(0, owner, z_E.detach(), "amax")
    mass = z_MV.new_zeros(len(counts)).index_add(0, owner, (z_E - highest[owner]).exp())
    lse = torch.logaddexp(lse_tail, highest + mass.log())
    entries = z_MV.new_zeros(len(counts)).index_add(0, owner, targets.probs * (lse[owner] - z_E))
    return entries + torch.where(lse_tail > -torch.inf, targets.tail * (lse - lse_tail), 0.0)
