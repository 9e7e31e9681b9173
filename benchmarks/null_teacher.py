"""A worker whose forward pass computes nothing: what everything else costs.

Reading, tokenizing, encoding, writing, receipts and the commit are those of any run; the soft ids are made up. They are valid ones: ids
distinct, log-probabilities descending, tail and partitions those of one full distribution over the vocabulary.

    generate(options, executor=Inline(NullWorker))          RayExecutor(options, NullWorker) likewise

Legend: N tokens, V vocabulary, K entries, S extra temperatures.
"""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.units.worker import Prepared, Scored, UnitWorker
from textsmooth.stages.soft_ids.topk import ChunkSoftIds

FIRST = 0.87  # probability of the original token; each further entry has half of what is left


def entries(topk: int, vocab_size: int) -> NDArray[np.float64]:
    """The probabilities of the top entries, most probable first: [K]. What is missing from 1 is the tail, spread evenly over the others."""
    found = np.concatenate([[FIRST], (1 - FIRST) * 0.5 ** np.arange(1, topk)])
    if topk == vocab_size:
        found[0] += 1 - found.sum()
    return found


class NullWorker(UnitWorker):
    """A UnitWorker that makes its soft ids up: token t gets the ids t, t + 1, … (modulo V), with the same probabilities everywhere."""

    def score(self, ready: Prepared) -> Scored:
        start = time.perf_counter()
        config, tokens, vocab = self.plan.config, ready.tokens, self.plan.teacher.vocab_size
        topk, wanted = config.topk, np.flatnonzero(ready.wanted)
        p = entries(topk, vocab)
        tail, others = 1 - float(p.sum()), vocab - topk
        even = tail / others if others else 0.0
        kept = min(int(np.searchsorted(p.cumsum(), config.mass - 1e-12)) + 1, topk)
        partition = [np.log((p ** (1 / t)).sum() + others * even ** (1 / t)) for t in config.extra_temperatures]
        original = torch.from_numpy(tokens.input_ids[wanted].astype(np.int64))
        count = len(wanted)

        def everywhere(*values: float) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32).expand(count, len(values))

        outside = 1 - float(p[:kept].sum())
        chunk = ChunkSoftIds(
            ids=(original[:, None] + torch.arange(topk)) % vocab,
            logprobs=everywhere(*np.log(p)),
            keep=torch.full((count,), kept),
            log_tail=everywhere(np.log(outside) if outside > 1e-12 else -np.inf)[:, 0],
            original_logprob=everywhere(float(np.log(p[0])))[:, 0],
            log_partition=everywhere(*partition),
            mass_by_rank=torch.from_numpy(count * np.where(np.arange(topk) < kept, p, 0.0)),
        )
        self.on_batch(len(tokens.input_ids), len(tokens.input_ids), int((tokens.window == 0).sum()))
        return Scored(
            chunks=[chunk],
            positions=wanted,
            padded=len(tokens.input_ids),
            passed=0,
            task_logits=None,
            seconds=time.perf_counter() - start,
        )
