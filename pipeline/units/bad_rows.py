"""Rows that cannot be smoothed, for what is in them: which they are, and what is written down of them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.plan.inputs import Sources
from textsmooth.pipeline.plan.rows import bad_text, row_columns
from textsmooth.pipeline.units.blame import RowsError
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import BadRow, Receipt, UnitFailure
from textsmooth.stages.corpus.reader import Rows, scan

NAMED = 16  # parts of a unit that are halved further, where no row is left out: so many rows at fault are named at least
FILES = 3  # whose first rows are looked at
FIRST = 64  # of them
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


class UnitRunner(Protocol):
    """What runs units, and parts of them: units/worker.py."""

    plan: Plan
    sources: Sources
    skip_bad_rows: bool

    def whole(self, unit: Unit, left_out: Mapping[int, str] | None = None, *, told: bool = True) -> Receipt: ...
    def fails(self, unit: Unit, rows: Rows, where: NDArray[np.int64]) -> str | None: ...
    def read(self, unit: Unit) -> Rows: ...


def rescue(worker: UnitRunner, unit: Unit) -> Receipt | UnitFailure:
    """What becomes of a unit whose rows failed.

    Where bad rows are left out (worker.skip_bad_rows), which ones is a matter of the rows and the teacher alone: the same each time.
    """
    try:
        return worker.whole(unit, told=False)
    except RowsError as again:
        error = str(again)
    rows, skip = worker.read(unit), worker.skip_bad_rows
    no_text = dict(bad_text(rows, worker.plan.corpus))
    rest = np.setdiff1d(np.arange(unit.rows), np.array([*no_text], np.int64))
    found = tell_apart(rest, partial(worker.fails, unit, rows), most=None if skip else NAMED, works=lambda: _others_work(worker, unit))
    if skip and found.works and not found.unknown:
        try:
            return worker.whole(unit, found.bad, told=False)
        except RowsError as last:
            error = str(last)
    bad = sorted({**no_text, **found.bad}.items())
    named = tuple(bad_row(unit, rows, index, why) for index, why in bad)
    return UnitFailure(unit=unit.id, name=unit.name, error=error, rows=named, attempts=2, works=found.works)


def _others_work(worker: UnitRunner, unit: Unit) -> bool:
    """Whether some row elsewhere in the corpus gets through: one of those that follow, or of the first ones of a file."""
    return any(
        worker.fails(place, rows, index) is None
        for place, rows in _elsewhere(worker, unit)
        for index in spread(np.arange(len(next(iter(rows.values())))))
    )


def _elsewhere(worker: UnitRunner, unit: Unit) -> Iterator[tuple[Unit, Rows]]:
    names, files = row_columns(worker.plan.corpus), worker.sources.files
    with closing(scan(files[unit.file], names, rows=unit.rows, start=unit.start, offset=unit.offset or 0)) as parts:
        for part in islice(parts, 1, 2):
            yield unit, part.rows
    for name in islice(files, FILES):
        if name != unit.file or unit.start >= FIRST:
            with closing(scan(files[name], names, rows=FIRST, limit=FIRST)) as parts:
                for part in parts:
                    yield replace(unit, file=name), part.rows
