"""Learning-rate schedule: linear warm-up, then linear, cosine or constant."""

import math


def rate(update: int, steps: int, *, lr: float, warmup: float, schedule: str) -> float:
    """The learning rate of an update from 0 to steps - 1.

    It rises from 0 to `lr` during the share `warmup` of the steps, then falls to 0 (linear, cosine) or stays (constant).
    """
    warmup_steps = int(warmup * steps)
    if update < warmup_steps:
        return lr * update / warmup_steps
    left = (steps - update) / max(steps - warmup_steps, 1)
    return lr * {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[schedule]
