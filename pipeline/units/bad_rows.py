"""Rows that cannot be smoothed because of their content: find which they are, and record them."""

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

MAX_PARTS = 16  # failing parts of a unit that are halved further, where no row is left out: at least so many bad rows are named
PROBED_FILES = 3  # files whose first rows are tried, to see whether any row works
PROBED_ROWS = 64  # rows read of each of them
PROBES = 8  # rows that are run alone, to see whether any works


def select_rows(rows: Rows, positions: NDArray[np.int64]) -> Rows:
    """The rows at these positions."""
    return {name: [values[i] for i in positions] for name, values in rows.items()}


@dataclass(kw_only=True)
class BadRows:
    """Result of a search for the bad rows of a unit."""

    errors: dict[int, str] = field(default_factory=dict)  # position in the unit -> error
    works: bool = False  # some row works: the rows are at fault, not the set-up
    unknown: int = 0  # failing rows that were not tried one by one


def probes(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """At most PROBES of these rows, each alone: the first, the last, and some between, evenly spaced."""
    return [positions[[i]] for i in np.unique(np.linspace(0, len(positions) - 1, min(len(positions), PROBES)).astype(int))]


def find_bad_rows(
    positions: NDArray[np.int64],
    error_of: Callable[[NDArray[np.int64]], str | None],
    *,
    max_parts: int | None,
    others_work: Callable[[], bool],
) -> BadRows:
    """Find the bad rows among those at `positions` by halving.

    error_of: the error that some of the rows cause, None if they work. max_parts: how many failing parts are halved further; None: all,
    until every row is tried. others_work: whether rows elsewhere work; called where no row of these does. If not, the search ends.
    Each row runs at most about as often as `positions` can be halved.
    """
    result = BadRows()
    if not len(positions):
        return result
    failing = [positions] if error_of(positions) is not None else []
    result.works = not failing
    if failing and len(positions) > 1:
        errors_alone = {int(row[0]): error_of(row) for row in probes(positions)}
        result.works = None in errors_alone.values() or others_work()
        if not result.works:
            result.errors = {row: error for row, error in errors_alone.items() if error}
            result.unknown = len(positions) - len(errors_alone)
            return result
    while failing:
        parts = failing if len(failing[0]) == 1 else [half for whole in failing for half in np.array_split(whole, 2)]
        errors = [error_of(part) for part in parts]
        result.errors |= {int(part[0]): error for part, error in zip(parts, errors, strict=True) if error and len(part) == 1}
        failing = [part for part, error in zip(parts, errors, strict=True) if error and len(part) > 1]
        result.unknown += sum(map(len, failing[max_parts:])) if max_parts is not None else 0
        failing = failing[:max_parts]
    return result


def bad_row(unit: Unit, rows: Rows, index: int, error: str) -> BadRow:
    """The record of a bad row; its values only where JSON can hold them."""
    values: dict[str, Any] | None = {name: column[index] for name, column in rows.items()}
    try:
        json.dumps(values, allow_nan=False).encode()
    except (ValueError, TypeError):
        values = None
    return BadRow(
        split=unit.split, row=unit.row + index, file=unit.file, file_row=unit.start + index, error=" ".join(error.split()), values=values
    )


class UnitRunner(Protocol):
    """Runs units and parts of them: UnitWorker of units/worker.py."""

    plan: Plan
    sources: Sources
    skip_bad_rows: bool

    def whole(self, unit: Unit, left_out: Mapping[int, str] | None = None, *, report: bool = True) -> Receipt: ...
    def error_of(self, unit: Unit, rows: Rows, positions: NDArray[np.int64]) -> str | None: ...
    def read(self, unit: Unit) -> Rows: ...


def rescue(worker: UnitRunner, unit: Unit) -> Receipt | UnitFailure:
    """Try a failed unit again; if it fails again, without its bad rows (worker.skip_bad_rows), or record them in a UnitFailure.

    Which rows are left out depends on the rows and the teacher alone: they are the same each time.
    """
    try:
        return worker.whole(unit, report=False)
    except RowsError as second:
        error = str(second)
    rows, skip = worker.read(unit), worker.skip_bad_rows
    no_text = dict(bad_text(rows, worker.plan.corpus))
    searched = np.setdiff1d(np.arange(unit.rows), np.array([*no_text], np.int64))
    bad = find_bad_rows(
        searched,
        partial(worker.error_of, unit, rows),
        max_parts=None if skip else MAX_PARTS,
        others_work=lambda: _others_work(worker, unit),
    )
    if skip and bad.works and not bad.unknown:
        try:
            return worker.whole(unit, bad.errors, report=False)
        except RowsError as third:
            error = str(third)
    named = tuple(bad_row(unit, rows, index, reason) for index, reason in sorted({**no_text, **bad.errors}.items()))
    return UnitFailure(unit=unit.id, name=unit.name, error=error, rows=named, attempts=2, works=bad.works)


def _others_work(worker: UnitRunner, unit: Unit) -> bool:
    """Whether some row elsewhere in the corpus works: one of those that follow the unit, or of the first ones of a file."""
    return any(
        worker.error_of(other, rows, positions) is None
        for other, rows in _rows_elsewhere(worker, unit)
        for positions in probes(np.arange(len(next(iter(rows.values())))))
    )


def _rows_elsewhere(worker: UnitRunner, unit: Unit) -> Iterator[tuple[Unit, Rows]]:
    names, files = row_columns(worker.plan.corpus), worker.sources.files
    with closing(scan(files[unit.file], names, rows=unit.rows, start=unit.start, offset=unit.offset or 0)) as parts:
        for part in islice(parts, 1, 2):
            yield unit, part.rows
    for name in islice(files, PROBED_FILES):
        if name != unit.file or unit.start >= PROBED_ROWS:
            with closing(scan(files[name], names, rows=PROBED_ROWS, limit=PROBED_ROWS)) as parts:
                for part in parts:
                    yield replace(unit, file=name), part.rows
