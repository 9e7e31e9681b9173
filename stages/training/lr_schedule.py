"""Learning-rate schedule: linear warm-up, then linear, cosine or constant."""

import math


def rate(update: int, steps: int, *, lr: float, warmup: float, schedule: str) -> float:
    """The learning rate of update 0 .. steps - 1.

    It rises to `lr` in the first share `warmup` of them, then falls to 0 (linear, cosine), or stays.
    """
    rising = int(warmup * steps)
    if update < rising:
        return lr * update / rising
    left = (steps - update) / max(steps - rising, 1)
    return lr * {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[schedule]
