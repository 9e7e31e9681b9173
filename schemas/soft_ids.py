"""Soft ids in memory: compressed sparse rows, one row of entries per token.

Legend: N tokens, E entries in all, V vocabulary, S extra temperatures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def id_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned type that holds every id below vocab_size."""
    for dtype in (np.uint16, np.uint32):
        if vocab_size - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise ValueError(f"a vocabulary of {vocab_size} does not fit into 32 bits")


@dataclass(frozen=True, kw_only=True)
class SoftIds:
    """The top entries of each token's distribution, most probable first; a token left plain has none.

    A plain token stands for certainty: original_logprob 0, log_tail -inf, log_partition 0.
    """

    offsets: NDArray[np.int64]  # [N + 1]: token n has entries offsets[n] .. offsets[n + 1]
    ids: NDArray[np.unsignedinteger]  # [E]
    logprobs: NDArray[np.floating]  # [E] natural log of the T = 1 probability under the full softmax
    log_tail: NDArray[np.floating]  # [N] log of the mass outside the entries
    original_logprob: NDArray[np.floating]  # [N] log p of the input token itself
    log_partition: NDArray[np.float32]  # [N, S] log sum_v exp(log p_v / T)

    def __len__(self) -> int:
        return len(self.offsets) - 1
