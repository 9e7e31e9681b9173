"""What is lost when only some entries of a distribution are kept: measured against the full softmax, in float64.

    p   the teacher's distribution over the vocabulary
    q   the kept entries scaled to sum 1: what a student reads with --tail renormalize
    q'  the kept entries as they are, what is outside spread evenly over the rest of the vocabulary

With m the mass of the kept entries: total variation between p and q is 1 - m, KL(q || p) is -log m, and KL(p || q) is infinite,
for q is 0 where p is not; KL(p || q') is finite. Rounding to float16 on disk is not in these figures.
Legend: N tokens, V vocabulary, K entries of the largest cut, G rows of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.stages.soft_ids.topk import topk_exact

GROUP = 16  # rows worked on at once: 16 x 30,522 float64 fit into the last-level cache
LOWEST = -800.0  # logit below the largest: exp of it is 0 in float64, and so is 0 * LOWEST, which 0 * -inf is not


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which entries are kept: the fewest that reach the mass, at most topk."""

    topk: int
    mass: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a cut keeps and loses, over the tokens seen; nan where there were none."""

    cut: Cut
    entries: float  # per token, mean
    captured: float  # mass of the kept entries, mean
    tv: float  # total variation between p and q, mean
    tv_95: float  # its 95 % quantile
    kl_q_p: float  # KL(q || p) in nats, mean
    kl_p_spread: float  # KL(p || q') in nats, mean


class Fidelity:
    """Takes logits chunk by chunk and keeps, per token, what each cut loses and p(original). ValueError if a cut's k > V."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self.cuts = tuple(cuts)
        self._chunks: list[NDArray[np.float64]] = []  # [N, cuts, 3]: entries, tail mass, KL(p || q')
        self._original: list[NDArray[np.float64]] = []  # [N]

    @torch.inference_mode()
    def add(self, logits: Tensor, original: Tensor) -> None:
        """logits: [N, V] of any float type. original: [N] int64, the input tokens."""
        if logits.device.type == "mps":  # has no float64
            logits, original = logits.cpu(), original.cpu()
        rows, vocab = logits.shape
        most = max(cut.topk for cut in self.cuts)
        if most > vocab:
            raise ValueError(f"topk {most} is more than the {vocab} entries of the vocabulary")
        top, ids = topk_exact(logits, most)
        peak = top[:, :1].double()
        outside = peak.new_empty(rows, 2)  # sums of e and e x outside the K entries; x: logit - peak, e: exp(x)
        work = peak.new_empty(2, min(GROUP, rows), vocab)
        for start in range(0, rows, GROUP):
            part = slice(start, start + GROUP)
            x, e = work[:, : len(logits[part])]
            torch.sub(logits[part], peak[part], out=x).clamp_(min=LOWEST)
            torch.exp(x, out=e).scatter_(1, ids[part], 0.0)
            outside[part, 0] = e.sum(-1)
            outside[part, 1] = e.mul_(x).sum(-1)
        x = (top.double() - peak).clamp_(min=LOWEST)
        e = x.exp()
        # behind the r-th entry, summed from the small end: no cancellation. [N, K + 1]
        behind_e = torch.cat([outside[:, :1], e.flip(-1)], -1).cumsum(-1).flip(-1)
        behind_ex = torch.cat([outside[:, 1:], (e * x).flip(-1)], -1).cumsum(-1).flip(-1)
        total = behind_e[:, :1]
        found = []
        for cut in self.cuts:
            keep = _keep(e[:, : cut.topk] / total, cut)[:, None]
            rest, rest_x = behind_e.gather(1, keep)[:, 0], behind_ex.gather(1, keep)[:, 0]
            tail = rest / total[:, 0]
            # tail * (log(V - keep) - entropy of the tail)
            spread = tail * ((vocab - keep[:, 0]).double().log() + rest_x / rest - rest.log())
            found.append(torch.stack([keep[:, 0].double(), tail, torch.where(rest > 0, spread.clamp(min=0.0), 0.0)], -1))
        own = (logits.gather(1, original[:, None])[:, 0].double() - peak[:, 0]).exp() / total[:, 0]
        losses, own = torch.stack(found, 1).cpu(), own.cpu()  # last what can fail for want of memory: a caller may try again
        self._chunks.append(losses.numpy())
        self._original.append(own.numpy())

    @property
    def p_original(self) -> NDArray[np.float64]:
        """[N] probability of each input token."""
        return np.concatenate([*self._original, np.empty(0)])

    def __len__(self) -> int:
        return len(self.p_original)

    def losses(self) -> tuple[Loss, ...]:
        """What each cut loses, in the order of the cuts."""
        seen = np.concatenate([*self._chunks, np.empty((0, len(self.cuts), 3))])
        return tuple(_loss(cut, *seen[:, i].T) for i, cut in enumerate(self.cuts))


def _keep(probs: Tensor, cut: Cut) -> Tensor:
    """How many of the leading entries [N, K] a cut keeps: [N]."""
    if cut.mass >= 1.0:
        return torch.full((len(probs),), cut.topk, device=probs.device)
    return ((probs.cumsum(-1) < cut.mass).sum(-1) + 1).clamp_max(cut.topk)


def _loss(cut: Cut, entries: NDArray[np.float64], tail: NDArray[np.float64], spread: NDArray[np.float64]) -> Loss:
    if not len(tail):
        nan = float("nan")
        return Loss(cut=cut, entries=nan, captured=nan, tv=nan, tv_95=nan, kl_q_p=nan, kl_p_spread=nan)
    return Loss(
        cut=cut,
        entries=float(entries.mean()),
        captured=float((1 - tail).mean()),
        tv=float(tail.mean()),
        tv_95=float(np.quantile(tail, 0.95)),
        kl_q_p=float(-np.log1p(-tail).mean()),
        kl_p_spread=float(spread.mean()),
    )
