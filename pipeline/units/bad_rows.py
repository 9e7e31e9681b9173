"""Rows that cannot be smoothed, for what is in them: which they are, and what is written down of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.plan import BadRow, Unit
from textsmooth.stages.corpus.reader import Rows

PROBES = 8  # rows that are run alone, to see whether any gets through


def taken(rows: Rows, where: NDArray[np.int64]) -> Rows:
    """The rows at these positions."""
    return {name: [values[i] for i in where] for name, values in rows.items()}


@dataclass(kw_only=True)
class Search:
    """Rows of a unit told apart, by what became of parts of it."""

    bad: dict[int, str] = field(default_factory=dict)  # position in the unit -> error
    works: bool = False  # some row gets through: it is the rows, not the set-up
    unknown: int = 0  # rows that were not told apart


def spread(where: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """At most PROBES of these rows, each alone: the first, the last, and some between."""
    return [where[[i]] for i in np.unique(np.linspace(0, len(where) - 1, min(len(where), PROBES)).astype(int))]


def tell_apart(
    where: NDArray[np.int64], fails: Callable[[NDArray[np.int64]], str | None], *, most: int | None, works: Callable[[], bool]
) -> Search:
    """Find the rows at fault among those at `where`, by halving.

    fails: what some of the rows fail with, None if they get through. most: how many parts that fail are halved further; None: all, until
    every row is told apart. works: asked where no row gets through, whether others do; if not, the search is given up.
    Each row runs at most about as often as `where` can be halved.
    """
    found = Search()
    if not len(where):
        return found
    failing = [where] if fails(where) is not None else []
    found.works = not failing
    if failing and len(where) > 1:
        alone = {int(row[0]): fails(row) for row in spread(where)}
        found.works = None in alone.values()
        if not found.works and not works():
            found.bad, found.unknown = {row: error for row, error in alone.items() if error}, len(where) - len(alone)
            return found
        found.works = True
    while failing:
        parts = failing if len(failing[0]) == 1 else [half for whole in failing for half in np.array_split(whole, 2)]
        errors = [fails(part) for part in parts]
        found.bad |= {int(part[0]): error for part, error in zip(parts, errors, strict=True) if error and len(part) == 1}
        failing = [part for part, error in zip(parts, errors, strict=True) if error and len(part) > 1]
        found.unknown += sum(map(len, failing[most:])) if most is not None else 0
        failing = failing[:most]
    return found


def bad_row(unit: Unit, rows: Rows, index: int, error: str) -> BadRow:
    """What is written down of a row of a unit."""
    values: dict[str, Any] | None = {name: found[index] for name, found in rows.items()}
    try:
        json.dumps(values, allow_nan=False).encode()
    except (ValueError, TypeError):
        values = None
    return BadRow(
        split=unit.split, row=unit.row + index, file=unit.file, file_row=unit.start + index, error=" ".join(error.split()), values=values
    )
