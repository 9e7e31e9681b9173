"""A unit that failed for what is in its rows: tried again, then without the rows at fault, or a failure that names them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from textsmooth.pipeline.plan.rows import bad_text, row_columns
from textsmooth.pipeline.units.bad_rows import bad_row, spread, tell_apart
from textsmooth.pipeline.units.blame import RowsError
from textsmooth.schemas.plan import Receipt, Unit, UnitFailure
from textsmooth.stages.corpus import reader as readers

if TYPE_CHECKING:
    from textsmooth.pipeline.units.worker import UnitWorker

NAMED = 16  # parts of a unit that are halved further, where no row is left out: so many rows at fault are named at least
FILES = 3  # whose first rows are looked at
FIRST = 64  # of them


def rescue(worker: "UnitWorker", unit: Unit) -> Receipt | UnitFailure:
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


def _others_work(worker: "UnitWorker", unit: Unit) -> bool:
    """Whether some row elsewhere in the corpus gets through: one of those that follow, or of the first ones of a file."""
    return any(
        worker.fails(place, rows, index) is None
        for place, rows in _elsewhere(worker, unit)
        for index in spread(np.arange(len(next(iter(rows.values())))))
    )


def _elsewhere(worker: "UnitWorker", unit: Unit) -> Iterator[tuple[Unit, readers.Rows]]:
    names, files = row_columns(worker.plan.corpus), worker.sources.files
    with closing(readers.scan(files[unit.file], names, rows=unit.rows, start=unit.start, offset=unit.offset or 0)) as parts:
        for part in islice(parts, 1, 2):
            yield unit, part.rows
    for name in islice(files, FILES):
        if name != unit.file or unit.start >= FIRST:
            with closing(readers.scan(files[name], names, rows=FIRST, limit=FIRST)) as parts:
                for part in parts:
                    yield replace(unit, file=name), part.rows
