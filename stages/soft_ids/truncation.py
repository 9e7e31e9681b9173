"""Measure what a truncation to the top entries loses, against the full softmax, in float64.

    p   the teacher's distribution over the vocabulary
    q   the kept entries scaled to sum 1: what a student reads with --tail renormalize
    q'  the kept entries as they are, the mass outside spread evenly over the rest of the vocabulary

With m the mass of the kept entries: total variation between p and q is 1 - m, KL(q || p) is -log m, and KL(p || q) is infinite,
for q is 0 where p is not; KL(p || q') is finite. Rounding to float16 on disk is not in these figures.
Legend: N tokens, V vocabulary, K entries of the largest truncation, C truncations, S temperatures, G rows of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.stages.soft_ids.topk import topk_exact

GROUP = 16  # rows worked on at once: 16 x 30,522 float64 fit into the last-level cache
LOWEST = -800.0  # logit below the largest: exp of it is 0 in float64, and so is 0 * LOWEST, which 0 * -inf is not


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Which entries are kept: the fewest that reach the mass, at most topk."""

    topk: int
    mass: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a truncation keeps and loses, over the tokens seen; NaN if there were none."""

    truncation: Truncation
    entries: float  # per token, mean
    captured: float  # mass of the kept entries, mean
    tv: float  # total variation between p and q, mean
    tv_95: float  # its 95 % quantile
    kl_q_p: float  # KL(q || p) in nats, mean
    kl_p_spread: float  # KL(p || q') in nats, mean
    captured_by_temperature: dict[float, float] = field(default_factory=dict)  # mass of the kept entries at other temperatures, mean


class TruncationLoss:
    """Collects, from chunks of logits, what each truncation loses per token, and p(original). Raises ValueError if topk > V.

    temperatures: others than 1, at which the mass of the kept entries is measured too.
    """

    def __init__(self, truncations: Sequence[Truncation], temperatures: Sequence[float] = ()) -> None:
        self.truncations, self.temperatures = tuple(truncations), tuple(temperatures)
        self._chunks: list[NDArray[np.float64]] = []  # [N, C, 3 + S]: entries, tail mass, KL(p || q'), mass at each temperature
        self._original: list[NDArray[np.float64]] = []  # [N]

    @torch.inference_mode()
    def add(self, logits: Tensor, original: Tensor) -> None:
        """logits: [N, V] of any float type. original: [N] int64, the input tokens."""
        if logits.device.type == "mps":  # has no float64
            logits, original = logits.cpu(), original.cpu()
        rows, vocab = logits.shape
        largest = max(truncation.topk for truncation in self.truncations)
        if largest > vocab:
            raise ValueError(f"topk {largest} is more than the {vocab} entries of the vocabulary")
        top, ids = topk_exact(logits, largest)
        peak = top[:, :1].double()
        outside = peak.new_empty(rows, 2)  # sums of e and e x outside the K entries; x: logit - peak, e: exp(x)
        work = peak.new_empty(2, min(GROUP, rows), vocab)
        totals = peak.new_empty(rows, len(self.temperatures))  # sums of exp(x / T) over the vocabulary
        for start in range(0, rows, GROUP):
            part = slice(start, start + GROUP)
            x, e = work[:, : len(logits[part])]
            torch.sub(logits[part], peak[part], out=x).clamp_(min=LOWEST)
            for column, temperature in enumerate(self.temperatures):
                totals[part, column] = torch.div(x, temperature, out=e).exp_().sum(-1)
            torch.exp(x, out=e).scatter_(1, ids[part], 0.0)
            outside[part, 0] = e.sum(-1)
            outside[part, 1] = e.mul_(x).sum(-1)
        x = (top.double() - peak).clamp_(min=LOWEST)
        e = x.exp()
        # sums after the r-th entry, added from the small end to avoid cancellation: [N, K + 1]
        after_e = torch.cat([outside[:, :1], e.flip(-1)], -1).cumsum(-1).flip(-1)
        after_ex = torch.cat([outside[:, 1:], (e * x).flip(-1)], -1).cumsum(-1).flip(-1)
        total = after_e[:, :1]
        upto = [(x / t).exp().cumsum(-1) / totals[:, column, None] for column, t in enumerate(self.temperatures)]  # S times [N, K]
        losses = []
        for truncation in self.truncations:
            keep = _keep(e[:, : truncation.topk] / total, truncation)[:, None]
            rest, rest_x = after_e.gather(1, keep)[:, 0], after_ex.gather(1, keep)[:, 0]
            tail = rest / total[:, 0]
            # tail * (log(V - keep) - entropy of the tail)
            spread = tail * ((vocab - keep[:, 0]).double().log() + rest_x / rest - rest.log())
            at_temperatures = [mass.gather(1, keep - 1)[:, 0] for mass in upto]
            losses.append(torch.stack([keep[:, 0].double(), tail, torch.where(rest > 0, spread.clamp(min=0.0), 0.0), *at_temperatures], -1))
        own = (logits.gather(1, original[:, None])[:, 0].double() - peak[:, 0]).exp() / total[:, 0]
        by_truncation, own = torch.stack(losses, 1).cpu(), own.cpu()  # the last steps that can run out of memory: a caller may retry
        self._chunks.append(by_truncation.numpy())
        self._original.append(own.numpy())

    @property
    def p_original(self) -> NDArray[np.float64]:
        """[N] probability of each input token."""
        return np.concatenate([*self._original, np.empty(0)])

    def __len__(self) -> int:
        return len(self.p_original)

    def losses(self) -> tuple[Loss, ...]:
        """What each truncation loses, in order."""
        measured = np.concatenate([*self._chunks, np.empty((0, len(self.truncations), 3 + len(self.temperatures)))])
        return tuple(_loss(truncation, measured[:, i], self.temperatures) for i, truncation in enumerate(self.truncations))


def _keep(probs: Tensor, truncation: Truncation) -> Tensor:
    """How many of the leading entries, [N, K] probabilities, a truncation keeps: [N] int64."""
    if truncation.mass >= 1.0:
        return torch.full((len(probs),), truncation.topk, device=probs.device)
    return ((probs.cumsum(-1) < truncation.mass).sum(-1) + 1).clamp_max(truncation.topk)


def _loss(truncation: Truncation, measured: NDArray[np.float64], temperatures: tuple[float, ...]) -> Loss:
    """Means over tokens. measured: [N, 3 + S]."""
    entries, tail, spread, *masses = measured.T
    if not len(tail):
        nan = float("nan")
        return Loss(truncation=truncation, entries=nan, captured=nan, tv=nan, tv_95=nan, kl_q_p=nan, kl_p_spread=nan)
    return Loss(
        truncation=truncation,
        entries=float(entries.mean()),
        captured=float((1 - tail).mean()),
        captured_by_temperature={t: float(mass.mean()) for t, mass in zip(temperatures, masses, strict=True)},
        tv=float(tail.mean()),
        tv_95=float(np.quantile(tail, 0.95)),
        kl_q_p=float(-np.log1p(-tail).mean()),
        kl_p_spread=float(spread.mean()),
    )
