"""How stored soft ids become a student's input, checked when it is put together."""

import math
from dataclasses import dataclass

from textsmooth.schemas.config import check_mass, check_temperatures
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.type_checks import check_types

TAILS = ("renormalize", "original", "mean")


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How stored soft ids become the input distribution s = (1 - lam) * onehot(x) + lam * p. UsageError if it cannot be."""

    lam: float | str = 0.5  # smoothing rate: 0 is ordinary training; `uniform`, or `beta:A` for Beta(A, A): each row its own
    temperature: float = 1.0
    topk: int | None = None  # None: all entries that are stored
    mass: float = 1.0  # of the T = 1 probability: the fewest entries that reach it
    tail: str = "mean"  # where the mass outside the entries goes: nowhere, the original token, the mean embedding
    draws: int | None = None  # so many ids drawn from p, each with an equal weight, in place of p; None: p itself
    smoothed_share: float = 1.0  # of the rows; the others stay plain

    def __post_init__(self) -> None:
        check_types(self)
        self._check_lam()
        check_temperatures((self.temperature,))
        for name, value in (("topk", self.topk), ("draws", self.draws)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, not {value}")
        check_mass(self.mass)
        if self.tail not in TAILS:
            raise UsageError(f"tail {self.tail!r} is not one of {', '.join(TAILS)}")
        if not (0 <= self.smoothed_share <= 1):
            raise UsageError(f"smoothed-share must be between 0 and 1, not {self.smoothed_share:g}")

    def _check_lam(self) -> None:
        if isinstance(self.lam, str) and self.lam != "uniform":
            number = self.lam.removeprefix("beta:")
            try:
                value = float(number)
            except ValueError:
                raise UsageError(f"lam must be a number between 0 and 1, `uniform` or `beta:A`, not {self.lam!r}") from None
            if number == self.lam:
                object.__setattr__(self, "lam", value)
            elif not (math.isfinite(value) and value > 0):
                raise UsageError(f"lam beta:A needs a finite A above 0, not {number}")
        if not isinstance(self.lam, str) and not (0 <= self.lam <= 1):
            raise UsageError(f"lam must be between 0 and 1, not {self.lam:g}")

    @property
    def lam_shape(self) -> float | None:
        """A of the Beta(A, A) that each row's lam comes from; None if lam is one number for all rows."""
        if not isinstance(self.lam, str):
            return None
        return 1.0 if self.lam == "uniform" else float(self.lam.removeprefix("beta:"))

    def stored_column(self, stored: tuple[float, ...]) -> int | None:
        """Which column of log_partition belongs to the temperature; None if none does.

        stored: the temperatures other than 1, in the order of the columns.
        """
        for column, temperature in enumerate(stored):
            if math.isclose(temperature, self.temperature, rel_tol=1e-9):
                return column
        return None

    def not_stored(self, stored: tuple[float, ...], why: str = "", instead: str = "") -> UsageError:
        """What to say where a temperature is needed exactly and is not stored. instead: what else may be chosen."""
        known = ", ".join(f"{t:g}" for t in sorted({1.0, *stored}))
        return UsageError(
            f"temperature {self.temperature:g} is not stored in this dataset, it has {known}{why}; "
            f"choose one of these{instead}, or generate with --temperatures {self.temperature:g}"
        )

    def partition_column(self, stored: tuple[float, ...]) -> int | None:
        """As `stored_column`, None for temperature 1, where the log-partition is 0; UsageError if the temperature is not stored."""
        column = self.stored_column(stored)
        if column is None and self.temperature != 1.0:
            raise self.not_stored(stored)
        return column
