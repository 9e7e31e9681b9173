"""Counter-based random numbers: a draw depends on its key and its position alone."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shuffled(count: int, key: str) -> NDArray[np.int64]:
    """A permutation of range(count) that depends on `key` alone: not on the numpy version, not on the machine.

    Rows are sorted by the splitmix64 hash of their number, started from the key's sha256; ties keep their order.
    """
    start = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.argsort(z, kind="stable").astype(np.int64)


def uniform(what: str, *counters: NDArray[Any] | int) -> NDArray[np.float64]:
    """A number in [0, 1) for each tuple of counters (they are broadcast), a pure function of `what` and of them.

    splitmix64 (Steele, Lea and Flood, 2014), one round per counter, started from the sha256 of `what`.
    """
    z = np.array(int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little"), np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            z = z ^ np.asarray(counter).astype(np.uint64)
            z += _GOLDEN
            z ^= z >> np.uint64(30)
            z *= _MIX_1
            z ^= z >> np.uint64(27)
            z *= _MIX_2
            z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def beta(shape: float, uniforms: NDArray[np.float64]) -> NDArray[np.float32]:
    """Numbers distributed as Beta(shape, shape), one for each number in [0, 1)."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(shape, shape, uniforms), np.float32)


_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
