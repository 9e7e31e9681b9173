"""What could not be done: units that failed for their rows, and rows that were left out. The driver writes quarantine.jsonl of them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from textsmooth.pipeline.commit.commit import finished_units, jsonl
from textsmooth.schemas.errors import QuarantineError, TeacherError
from textsmooth.schemas.manifest import MANIFEST, QUARANTINE
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import UnitFailure
from textsmooth.stages.storage.folder import Folder

FIRST_UNITS = 3  # if they all fail, and no row gets through, a run ends: it is the set-up


def check_set_up(failures: Sequence[UnitFailure], plan: Plan, done: int) -> None:
    """TeacherError if no unit is done, the first few failed, and not one row got through: the others would fail as well."""
    if failures and not done and len(failures) >= min(FIRST_UNITS, len(plan.units)) and not any(f.works for f in failures):
        which = f"the first {len(failures)} units" if len(failures) > 1 else "the first unit"
        raise TeacherError(
            f"no row of {which} got through ({failures[0].name}: {failures[0].error}): it seems to be the set-up, not the data; look at "
            "the teacher and the options, then run the same command again"
        )


def close(out: Folder, plan: Plan, failures: Sequence[UnitFailure]) -> None:
    """Write the units that failed, and that no other driver has done meanwhile, into quarantine.jsonl; QuarantineError if there are any."""
    done = finished_units(out, plan) if failures else {}
    left = sorted((failure for failure in failures if failure.unit not in done), key=lambda failure: failure.name)
    if not left or out.size(MANIFEST) is not None:
        return
    out.put(QUARANTINE, jsonl(_lines(left, {unit.id: unit for unit in plan.units})))
    bad = left[0].rows[0] if left[0].rows else None
    why = f"row {bad.file_row} of {bad.file}: {bad.error}" if bad else left[0].error
    raise QuarantineError(
        f"{len(left)} of {len(plan.units)} units failed, the rest is done; the first is {left[0].name} ({why}). {out.at(QUARANTINE)} lists "
        "them. The same command tries them again, with --skip-bad-rows it leaves such rows out; or mend the corpus and give another --out"
    )


def _lines(failures: Sequence[UnitFailure], units: dict[str, Unit]) -> Iterator[dict[str, Any]]:
    """A line for each unit, and after it one for each of its rows that is known to be at fault."""
    for failure in failures:
        unit = units[failure.unit]
        place = {"unit": failure.name, "file": unit.file, "first_row": unit.start, "rows": unit.rows, "bad_rows": len(failure.rows)}
        yield {**place, "error": failure.error, "attempts": failure.attempts, "node": failure.node or None}
        yield from map(asdict, failure.rows)
