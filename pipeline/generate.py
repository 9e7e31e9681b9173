"""A run of generation: plan, drop what is done, run units, commit."""

from dataclasses import dataclass, replace
from pathlib import Path

from textsmooth.pipeline import executors
from textsmooth.pipeline.commit import commit, finished_units, tidy
from textsmooth.pipeline.plan import cut, differences, same_rows, same_source
from textsmooth.pipeline.progress import Progress
from textsmooth.pipeline.request import Draft, draft
from textsmooth.pipeline.sources import default_out
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, DatasetError, StorageError
from textsmooth.schemas.manifest import CARD, MANIFEST, PLAN, RECEIPTS, RECEIPTS_FOLDER, TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.plan import Plan
from textsmooth.stages.storage import TEMP_PREFIX, pretty_json, put_exclusive, read_json, remove

SHARDS = f"*/[0-9]*-{'[0-9a-f]' * 12}.arrow"  # as units name them


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a run made."""

    out: Path
    manifest: Manifest
    units: int  # run now; 0 if all were there
    tokens: int  # smoothed or read now
    load_s: float  # of loading the teacher
    run_s: float  # of running units
    busy: float  # share of run_s in which the forward pass ran


def generate(options: GenerateOptions, progress: Progress | None = None) -> Generated:
    """Make the smoothed dataset that is asked for, or finish it if it was begun.

    Raises UsageError, CorpusError, TeacherError, ConflictError or StorageError. A finished folder is never written again.
    """
    with progress or Progress("none") as shown:
        return _generate(options, shown)


def _generate(options: GenerateOptions, shown: Progress) -> Generated:
    out, asked, plan, new = resolve(options, shown)
    if (out / MANIFEST).is_file() and not new:
        return Generated(out=out, manifest=tidy(out, plan), units=0, tokens=0, load_s=0.0, run_s=0.0, busy=0.0)
    done = {} if new else finished_units(out, plan)
    todo = [unit for unit in plan.units if unit.id not in done]
    shown.start(plan, sum(r.rows for r in done.values()))
    if todo:
        executor = executors.Inline(plan, asked.sources, out, shown.batch)
        if new and not _publish(out, plan, overwrite=options.overwrite):  # another driver was first: its plan counts
            return _generate(replace(options, overwrite=False), shown)
        shown.ready()
        for number, receipt in enumerate(executor.run(todo), len(done) + 1):
            shown.unit(receipt, number, len(plan.units))
    load_s, run_s, busy = shown.load_s, shown.elapsed_s, shown.busy
    manifest = commit(out, plan, asked.tokenizer)
    return Generated(out=out, manifest=manifest, units=len(todo), tokens=shown.tokens, load_s=load_s, run_s=run_s, busy=busy)


def resolve(options: GenerateOptions, progress: Progress) -> tuple[Path, Draft, Plan, bool]:
    """The folder, the resolved request, the plan, and whether that is a new one; nothing is written."""
    out = Path(options.out).expanduser() if options.out else default_out(options)
    before = _plan_in(out, overwrite=options.overwrite)
    finished = before is not None and (out / MANIFEST).is_file()
    asked = draft(options, before, finished=finished)
    if before is None:
        return out, asked, cut(asked, progress.reading), True
    found = differences(asked, before, finished=finished)
    if found:
        raise ConflictError(
            f"{out} holds another run ({'; '.join(found[:4])}{' …' if len(found) > 4 else ''}); "
            "give another --out, or start again with --overwrite"
        )
    plan = before if same_source(asked, before) else same_rows(asked, before, progress.reading)
    return out, asked, replace(plan, runtime=asked.runtime), False  # decides nothing: what is asked now counts


def _publish(out: Path, plan: Plan, *, overwrite: bool) -> bool:
    """Put a new plan in place; False if another driver was first."""
    if overwrite:
        _clear(out)
    return put_exclusive(out / PLAN, pretty_json(plan.to_json()))


def _plan_in(out: Path, *, overwrite: bool) -> Plan | None:
    """The plan in a folder, None if there is none or it will be overwritten. ConflictError if the folder holds something else."""
    try:
        if not out.exists():
            return None
    except OSError as error:
        raise StorageError(f"cannot use {out}: {error.strerror}; choose another --out") from None
    if not out.is_dir():
        raise StorageError(f"{out} is a file, --out must be a folder")
    if overwrite:
        if any(out.iterdir()) and not (out / PLAN).is_file() and not (out / MANIFEST).is_file():
            raise ConflictError(f"--overwrite removes only runs of textsmooth, and {out} holds none; give another --out")
        return None
    if (out / PLAN).is_file():
        try:
            return Plan.from_json(read_json(out / PLAN))
        except DatasetError as error:
            raise DatasetError(f"{out}: {error}; start again with --overwrite, or give another --out") from None
    if (out / MANIFEST).is_file():
        raise ConflictError(f"{out} has a manifest but no {PLAN}: it was made elsewhere or damaged; give another --out")
    if any(not p.name.startswith(TEMP_PREFIX) for p in out.iterdir()):
        raise ConflictError(f"{out} is not empty and holds no run of textsmooth; give another --out")
    return None


def _clear(out: Path) -> None:
    """Remove a run of textsmooth: the files that a run makes, and nothing else that may lie beside them."""
    shards = [*out.glob(SHARDS), *out.glob(f"*/{TEMP_PREFIX}*")]
    for name in (MANIFEST, CARD, RECEIPTS, RECEIPTS_FOLDER, TOKENIZER_FOLDER):  # the manifest first: from here on it is no dataset
        remove(out / name)
    for shard in shards:
        remove(shard)
    for folder in {shard.parent for shard in shards}:
        if folder.is_dir() and not any(folder.iterdir()):
            remove(folder)
    remove(out / PLAN)  # last: until here a run of textsmooth can be recognised
