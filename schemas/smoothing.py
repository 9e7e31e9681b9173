"""How stored soft ids become a student's input, checked when it is put together."""

import math
from dataclasses import dataclass

from textsmooth.schemas.config import check_mass, check_temperatures
from textsmooth.schemas.errors import UsageError

TAILS = ("renormalize", "original", "mean")


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How stored soft ids become the input distribution s = (1 - lam) * onehot(x) + lam * p. UsageError if it cannot be."""

    lam: float = 0.5  # smoothing rate: 0 is ordinary training
    temperature: float = 1.0
    topk: int | None = None  # None: all entries that are stored
    mass: float = 1.0  # of the T = 1 probability: the fewest entries that reach it
    tail: str = "renormalize"  # where the mass outside the entries goes: nowhere, the original token, the mean embedding

    def __post_init__(self) -> None:
        if not (0 <= self.lam <= 1):
            raise UsageError(f"lam must be between 0 and 1, not {self.lam:g}")
        check_temperatures((self.temperature,))
        if self.topk is not None and self.topk < 1:
            raise UsageError(f"topk must be a whole number of at least 1, not {self.topk}")
        check_mass(self.mass)
        if self.tail not in TAILS:
            raise UsageError(f"tail {self.tail!r} is not one of {', '.join(TAILS)}")

    def partition_column(self, stored: tuple[float, ...]) -> int | None:
        """Which column of log_partition belongs to the temperature; None for 1, where it is 0.

        stored: the temperatures other than 1, in the order of the columns. UsageError if the temperature is not among them.
        """
        if self.temperature == 1.0:
            return None
        for column, temperature in enumerate(stored):
            if math.isclose(temperature, self.temperature, rel_tol=1e-9):
                return column
        known = ", ".join(f"{t:g}" for t in sorted({1.0, *stored}))
        raise UsageError(
            f"temperature {self.temperature:g} is not stored in this dataset, it has {known}; "
            f"choose one of these, or generate with --temperatures {self.temperature:g}"
        )
