"""A run of generation: plan, drop what is done, run units, commit."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from textsmooth.pipeline import executors
from textsmooth.pipeline.commit import commit, finished_units, remove_working_files
from textsmooth.pipeline.plan import cut, differences, same_rows, same_source
from textsmooth.pipeline.progress import Progress
from textsmooth.pipeline.request import Draft, default_out, draft
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, DatasetError
from textsmooth.schemas.manifest import CARD, MANIFEST, PLAN, RECEIPTS, RECEIPTS_FOLDER, TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.plan import Plan
from textsmooth.stages.storage import TEMP_PREFIX, StorageError, pretty_json, put_exclusive, read_json, read_manifest


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a run made."""

    out: Path
    manifest: Manifest
    units: int  # run now; 0 if all were there
    tokens: int  # smoothed or read now
    seconds: float  # of running units, teacher's loading included
    busy: float  # share of that time in which the forward pass ran


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run would do."""

    out: Path
    plan: Plan
    done: int  # units with a receipt


def generate(options: GenerateOptions, progress: Progress | None = None) -> Generated:
    """Make the smoothed dataset that is asked for, or finish it if it was begun.

    Raises UsageError, CorpusError, TeacherError, ConflictError or StorageError. A finished folder is never written again.
    """
    with progress or Progress("none") as shown:
        out, asked, plan = _prepare(options, shown)
        if (out / MANIFEST).is_file():
            remove_working_files(out)
            return Generated(out=out, manifest=read_manifest(out), units=0, tokens=0, seconds=0.0, busy=0.0)
        done = finished_units(out, plan)
        todo = [unit for unit in plan.units if unit.id not in done]
        start = time.perf_counter()
        shown.start(plan, sum(r.rows for r in done.values()))
        for number, receipt in enumerate(executors.inline(plan, asked.sources, out, todo, shown.batch) if todo else (), len(done) + 1):
            shown.unit(receipt, number, len(plan.units))
        seconds, busy = time.perf_counter() - start, shown.busy
        manifest = commit(out, plan, asked.tokenizer)
        return Generated(out=out, manifest=manifest, units=len(todo), tokens=shown.tokens, seconds=seconds, busy=busy)


def preview(options: GenerateOptions, progress: Progress | None = None) -> Preview:
    """Plan a run and say what it would do; nothing is written."""
    with progress or Progress("none") as shown:
        out, _, plan = _prepare(options, shown, write=False)
        return Preview(out=out, plan=plan, done=len(plan.units) if (out / MANIFEST).is_file() else len(finished_units(out, plan)))


def _prepare(options: GenerateOptions, progress: Progress, *, write: bool = True) -> tuple[Path, Draft, Plan]:
    """The folder, the resolved request, and the plan: the one that is there, or a new one, published."""
    out = Path(options.out).expanduser() if options.out else default_out(options)
    before = None if options.overwrite else _plan_in(out)
    asked = draft(options, before)
    if before is not None:
        finished = (out / MANIFEST).is_file()
        found = differences(asked, before, finished=finished)
        if found:
            raise ConflictError(
                f"{out} holds another run ({'; '.join(found[:4])}{' …' if len(found) > 4 else ''}); "
                "give another --out, or start again with --overwrite"
            )
        if not same_source(asked, before):
            same_rows(asked, before, progress.reading)
        return out, asked, before
    plan = cut(asked, progress.reading)
    if write:
        if options.overwrite:
            _clear(out)
        put_exclusive(out / PLAN, pretty_json(plan.to_json()))
        published = _plan_in(out)
        assert published is not None
        if published.digest != plan.digest:
            raise ConflictError(f"another run has just begun in {out}; give another --out")
        plan = published
    return out, asked, plan


def _plan_in(out: Path) -> Plan | None:
    """The plan in a folder, None if the folder is new. ConflictError if it holds something else."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise StorageError(f"{out} is a file, --out must be a folder")
    if (out / PLAN).is_file():
        return Plan.from_json(read_json(out / PLAN))
    if (out / MANIFEST).is_file():
        raise ConflictError(f"{out} has a manifest but no {PLAN}: it was made elsewhere or damaged; give another --out")
    if any(not p.name.startswith(TEMP_PREFIX) for p in out.iterdir()):
        raise ConflictError(f"{out} is not empty and holds no run of textsmooth; give another --out")
    return None


def _clear(out: Path) -> None:
    """Remove a run of textsmooth: the files and folders that a run makes, and nothing else that may lie beside them."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / PLAN).is_file() and not (out / MANIFEST).is_file():
        raise ConflictError(f"--overwrite removes only runs of textsmooth, and {out} holds none; give another --out")
    splits = _splits_in(out)
    for name in (MANIFEST, CARD, RECEIPTS):  # the manifest first: from here on it is no dataset
        (out / name).unlink(missing_ok=True)
    for name in (RECEIPTS_FOLDER, TOKENIZER_FOLDER, *splits):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    (out / PLAN).unlink(missing_ok=True)  # last: until here a run of textsmooth can be recognised


def _splits_in(out: Path) -> tuple[str, ...]:
    """The splits of the run in a folder, also of one whose plan this version cannot use."""
    try:
        return tuple(read_json(out / PLAN)["corpus"]["files"])
    except (DatasetError, OSError, KeyError, TypeError):
        return tuple(p.parent.name for p in out.glob("*/*.arrow"))
