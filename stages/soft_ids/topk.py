"""Logits to soft ids: the exact top-k, its tail, and the partition functions, without a dense softmax.

Legend: N tokens of a chunk, V vocabulary, K entries kept, S extra temperatures, G rows of a group.

The top-k comes from block maxima: a row's k largest values lie in the k blocks with the largest maxima, so only those are
searched. The log-sum-exp runs over groups of rows that stay in the cache, with the chosen entries taken out first: their sum and
the tail's are then each exact to float32, where 1 - sum(p) would cancel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textsmooth.schemas.soft_ids import SoftIds, id_dtype

BLOCK = 64  # vocabulary entries per block of the top-k search
GROUP = 32  # rows per log-sum-exp: 32 x 30,522 float32 fit into the last-level cache


@dataclass(frozen=True, kw_only=True)
class ChunkSoftIds:
    """Soft ids of one chunk, dense in K. The leading `keep[n]` entries of token n count."""

    ids: Tensor  # [N, K] int64, most probable first, ties by id
    logprobs: Tensor  # [N, K] float32
    keep: Tensor  # [N] int64, 1..K
    log_tail: Tensor  # [N] float32
    original_logprob: Tensor  # [N] float32
    log_partition: Tensor  # [N, S] float32
    mass_by_rank: Tensor  # [K] float64 sum over the tokens of the r-th entry's probability, where it counts


def topk_exact(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of each row and their ids: [N, K] each, descending, equal values by ascending id.

    Which of several equal values at the very cut-off is taken is left open, as in torch.topk. NaN counts as the largest value.
    """
    vocab = logits.shape[-1]
    blocks = vocab // BLOCK
    if blocks < 4 * k:  # too few blocks to gain anything
        values, ids = logits.topk(k, dim=-1)
    else:
        blocked = logits[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))  # [N, V/64, 64], a view
        best = blocked.amax(-1).topk(k, dim=-1, sorted=False).indices  # [N, K]
        found = blocked.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1)  # [N, 64 K]
        candidates = torch.cat([found, logits[:, blocks * BLOCK :]], dim=1)
        values, where = candidates.topk(k, dim=-1)
        in_block = best.gather(1, (where // BLOCK).clamp_max(k - 1)) * BLOCK + where % BLOCK
        ids = torch.where(where < k * BLOCK, in_block, where - k * BLOCK + blocks * BLOCK)
    by_id = ids.argsort(dim=-1)
    values, ids = values.gather(1, by_id), ids.gather(1, by_id)
    by_value = values.argsort(dim=-1, descending=True, stable=True)
    return values.gather(1, by_value), ids.gather(1, by_value)


class Sparsifier:
    """Turns chunks of logits into soft ids; keeps its work buffer between chunks.

    topk: K. mass: the fewest entries that reach it are kept, at most K. temperatures: those whose log-partition is wanted.
    """

    def __init__(self, *, topk: int, mass: float = 1.0, temperatures: tuple[float, ...] = ()) -> None:
        self.topk, self.mass, self.temperatures = topk, mass, temperatures
        self._buffer: Tensor | None = None

    def _exp_buffer(self, logits: Tensor) -> Tensor:
        rows, vocab = logits.shape
        # two rows at least: torch splits the sum of a single long row over threads, and its last bit then depends on their number
        group = max(min(rows, GROUP) if logits.device.type == "cpu" else rows, 2)
        buffer = self._buffer
        if buffer is None or buffer.shape != (group, vocab) or buffer.device != logits.device:
            buffer = self._buffer = torch.zeros(group, vocab, dtype=torch.float32, device=logits.device)
        return buffer

    @torch.inference_mode()
    def __call__(self, logits: Tensor, original: Tensor) -> ChunkSoftIds:
        """logits: [N, V] float32, bfloat16 or float16. original: [N] int64, the input tokens. ValueError if k > V."""
        rows, vocab = logits.shape
        if self.topk > vocab:
            raise ValueError(f"topk {self.topk} is more than the {vocab} entries of the vocabulary")
        top, ids = topk_exact(logits, self.topk)
        top = top.float()
        peak = top[:, :1]
        buffer = self._exp_buffer(logits)
        group = len(buffer)
        rest = logits.new_empty(rows, dtype=torch.float32)  # sum of exp(logit - peak) outside the entries
        partition = logits.new_empty((rows, len(self.temperatures)), dtype=torch.float32)
        for start in range(0, rows, group):
            part = slice(start, min(start + group, rows))
            size = part.stop - start
            work, summed = buffer[:size], buffer[: max(size, 2)]
            for column, temperature in enumerate(self.temperatures):
                torch.sub(logits[part], peak[part], out=work)
                work.div_(temperature).exp_()
                partition[part, column] = summed.sum(-1)[:size]
            torch.sub(logits[part], peak[part], out=work)
            work.exp_().scatter_(1, ids[part], 0.0)
            rest[part] = summed.sum(-1)[:size]
        weights = (top - peak).double().exp()  # [N, K]
        total = weights.sum(-1) + rest.double()  # [N]
        log_total = total.log()
        logprobs = (top - peak).double() - log_total[:, None]
        probs = weights / total[:, None]
        keep, tail, mass_by_rank = self._cut(probs, rest.double() / total)
        original_logit = logits.gather(1, original[:, None]).float() - peak
        temperatures = torch.tensor(self.temperatures, dtype=torch.float64, device=logits.device)
        return ChunkSoftIds(
            ids=ids,
            logprobs=logprobs.float(),
            keep=keep,
            log_tail=tail.log().float(),
            original_logprob=(original_logit[:, 0].double() - log_total).float(),
            log_partition=(partition.double().log() - log_total[:, None] / temperatures).float(),
            mass_by_rank=mass_by_rank,
        )

    def _cut(self, probs: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How many leading entries reach the mass [N], what is left outside them [N], and the probabilities inside by rank [K]; float64."""
        if self.mass >= 1.0:
            return torch.full((len(probs),), self.topk, device=probs.device), rest, probs.sum(0)
        reached = probs.cumsum(-1)
        keep = ((reached < self.mass).sum(-1) + 1).clamp_max(self.topk)
        # what is cut off, summed from the small end: no cancellation
        outside = torch.arange(self.topk, device=probs.device)[None, :] >= keep[:, None]
        cut = probs * outside
        return keep, rest + cut.flip(-1).sum(-1), (probs - cut).sum(0)


def gather_soft_ids(
    chunks: list[ChunkSoftIds], position: NDArray[np.int64], *, tokens: int, vocab_size: int, temperatures: int = 0
) -> SoftIds:
    """Put the chunks' tokens at their positions among all tokens; the others are left plain.

    position: [N] where the n-th token of the chunks (in order) stands among `tokens`; each position at most once.
    temperatures: S, how many have a log-partition.
    """

    log_tail = np.full(tokens, -np.inf, np.float32)
    original = np.zeros(tokens, np.float32)
    partition = np.zeros((tokens, temperatures), np.float32)
    counts = np.zeros(tokens, np.int64)
    ids, logprobs = np.empty(0, id_dtype(vocab_size)), np.empty(0, np.float32)
    if chunks:

        def flat(name: str, dtype: torch.dtype | None = None) -> NDArray[Any]:
            return torch.cat([getattr(chunk, name).to(dtype) for chunk in chunks]).cpu().numpy()

        keep, topk = flat("keep"), chunks[0].ids.shape[1]
        log_tail[position], original[position], partition[position] = flat("log_tail"), flat("original_logprob"), flat("log_partition")
        counts[position] = keep
        number = np.full(tokens, -1)
        number[position] = np.arange(len(position))
        order = number[number >= 0]  # tokens of the chunks in reading order
        # whole rows are moved by take; fancy indexing is three times as slow
        ids, logprobs = flat("ids", getattr(torch, ids.dtype.name)).take(order, axis=0), flat("logprobs").take(order, axis=0)
        if (keep == topk).all():
            ids, logprobs = ids.ravel(), logprobs.ravel()
        else:
            kept = np.arange(topk) < keep[order, None]
            ids, logprobs = ids[kept], logprobs[kept]
    return SoftIds(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        ids=ids,
        logprobs=logprobs,
        log_tail=log_tail,
        original_logprob=original,
        log_partition=partition,
    )
