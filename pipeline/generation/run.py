"""A run of generation: plan, drop what is done, run units, commit."""

import re
from dataclasses import dataclass, replace

from textsmooth.pipeline.commit.commit import commit, finished_units, tidy
from textsmooth.pipeline.commit.receipts import remove_receipts
from textsmooth.pipeline.executors import base as executors
from textsmooth.pipeline.executors import shutdown as drain
from textsmooth.pipeline.executors.base import Executor
from textsmooth.pipeline.generation.reuse import Previous, Taken, check, compared, find_previous, take_over
from textsmooth.pipeline.generation.run_record import RunRecord
from textsmooth.pipeline.plan.cut import HIGHEST_LABEL, cut, label_note
from textsmooth.pipeline.plan.differences import differences, same_rows, same_source
from textsmooth.pipeline.plan.inputs import check_apart, check_files_apart, default_out
from textsmooth.pipeline.plan.resolve import Draft, draft
from textsmooth.pipeline.progress import Progress
from textsmooth.pipeline.units import quarantine
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError, DatasetError
from textsmooth.schemas.manifest import CARD, MANIFEST, PLAN, QUARANTINE, RECEIPTS, RUN, TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.plan import Plan, Unit, UnitFailure
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.folder import Folder, is_temp, read_json

SHARD = re.compile(r"[^/]+/\d{5,}-[0-9a-f]{12}\.arrow")  # as units name them


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a run made."""

    out: str  # path or URI of the folder
    manifest: Manifest
    units: int  # run now; 0 if all were there
    tokens: int  # smoothed or read now
    load_s: float  # of loading the teacher
    run_s: float  # of running units
    busy: float  # share of run_s in which the forward pass ran
    taken: int = 0  # units taken over now
    told: tuple[str, ...] = ()  # what could not be taken over, one line each
    note: str | None = None  # why no student can be trained on its labels


def generate(options: GenerateOptions, progress: Progress | None = None, *, executor: Executor | None = None) -> Generated:
    """Make the smoothed dataset that is asked for, or finish it if it was begun.

    executor: one of your own, instead of the one that the options ask for.
    Raises UsageError, CorpusError, TeacherError, ConflictError or StorageError. A finished folder is never written again.
    """
    record = RunRecord(options)
    with progress or Progress("none") as shown, executor or executors.executor(options) as running, record.kept(shown):
        running.tell = shown.tell
        made = _generate(options, shown, running, record)
        shown.finish({**record.to_json(), "out": made.out, "dataset": made.manifest.dataset})
        return made


def _generate(options: GenerateOptions, shown: Progress, executor: Executor, record: RunRecord) -> Generated:
    out, asked, plan, new = resolve(options, shown, executor)
    if not new and out.size(MANIFEST) is not None:
        record.nothing_to_do(plan, executor)
        finished = tidy(out, plan)
        return Generated(out=str(out), manifest=finished, units=0, tokens=0, load_s=0.0, run_s=0.0, busy=0.0, note=label_note(plan))
    done = {} if new else finished_units(out, plan)
    taken = Taken(receipts={})
    if asked.previous is not None:  # before the teacher is loaded: no device waits while files are copied
        if new and not publish_plan(out, plan, overwrite=options.overwrite):
            return _generate(replace(options, overwrite=False), shown, executor, record)
        new = False
        left = [unit for unit in plan.units if unit.id not in done]
        taken = take_over(asked.previous, out, left, skip_bad_rows=options.skip_bad_rows, progress=shown.taking)
        done |= taken.receipts
    todo = [unit for unit in plan.units if unit.id not in done]
    shown.start(plan, sum(r.rows for r in done.values()), units=len(done), out=str(out), executor=executor.name, note=label_note(plan))
    if not new:
        record.begin(out, plan, executor, reused=len(done))
    if todo:
        record.phase("loading")
        executor.load(plan, asked.sources, out, shown.batch)
        if new and not publish_plan(out, plan, overwrite=options.overwrite):  # another driver was first: its plan counts
            return _generate(replace(options, overwrite=False), shown, executor, record)
        record.begin(out, plan, executor, reused=len(done))
        shown.ready(executor.num_workers)
    with drain.draining(executor.stop):
        record.phase("running")
        quarantine.close(out, plan, _run(todo, plan, shown, executor, record))
        load_s, run_s, busy = shown.load_s, shown.elapsed_s, shown.busy
        record.phase("committing")
        manifest = commit(out, plan, asked.tokenizer, last=record.write)
    return Generated(
        out=str(out),
        manifest=manifest,
        units=len(todo),
        tokens=shown.tokens,
        load_s=load_s,
        run_s=run_s,
        busy=busy,
        taken=len(taken.receipts),
        told=taken.told,
        note=label_note(plan),
    )


def _run(todo: list[Unit], plan: Plan, shown: Progress, executor: Executor, record: RunRecord) -> list[UnitFailure]:
    """Run units; those that failed. Terminated if not all could be begun before the process has to end."""
    number = record.reused
    left = len(todo)
    failures: list[UnitFailure] = []
    for outcome in executor.run(todo) if todo else ():
        left -= 1
        record.add(outcome)
        if isinstance(outcome, UnitFailure):
            shown.failure(outcome)
            failures.append(outcome)
            quarantine.check_set_up(failures, plan, number)
            continue
        number += 1
        shown.unit(outcome, number, len(plan.units))
    if left and drain.asked():
        raise drain.Terminated
    return failures


def resolve(options: GenerateOptions, progress: Progress, executor: Executor) -> tuple[Folder, Draft, Plan, bool]:
    """The folder, the resolved request, the plan, and whether that is a new one; nothing is written."""
    out = open_folder(options.out or default_out(options))
    check_apart(options, out)
    before = plan_in(out, overwrite=options.overwrite)
    finished = before is not None and out.size(MANIFEST) is not None
    previous = find_previous(options, out, before, finished=finished)
    open_as = previous.settings if before is None and isinstance(previous, Previous) else before
    asked = replace(draft(options, open_as, finished=finished, look=executor.look), previous=previous)
    if before is not None or options.overwrite:
        check_files_apart(asked.corpus, out)
    if before is None:
        if not isinstance(previous, Previous):
            return out, asked, cut(asked, progress.reading, skip_bad_rows=options.skip_bad_rows), True
        check(previous, asked)
        return out, asked, compared(previous, cut(asked, progress.reading, skip_bad_rows=options.skip_bad_rows), asked.sources), True
    found = differences(asked, before, finished=finished)
    if found:
        raise ConflictError(
            f"{out} holds another run ({'; '.join(found[:4])}{' …' if len(found) > 4 else ''}); "
            "give another --out, or start again with --overwrite"
        )
    plan = before if same_source(asked, before) else same_rows(asked, before, progress.reading)
    read = {name: value for name, value in plan.runtime.items() if name == HIGHEST_LABEL}
    return out, asked, replace(plan, runtime={**asked.runtime, **read}), False  # decides nothing: what is asked now counts


def publish_plan(out: Folder, plan: Plan, *, overwrite: bool) -> bool:
    """Put a new plan in place; False if another driver was first."""
    if overwrite:
        _clear(out)
    return out.put_exclusive(PLAN, pretty_json(plan.to_json()))


def plan_in(out: Folder, *, overwrite: bool) -> Plan | None:
    """The plan in a folder, None if there is none or it will be overwritten. ConflictError if the folder holds something else."""
    if not out.exists():
        return None
    planned, finished = out.size(PLAN) is not None, out.size(MANIFEST) is not None
    if overwrite:
        if not any(_is_ours(out, name) for name in (PLAN, MANIFEST)) and not out.empty():
            raise ConflictError(f"--overwrite removes only runs of textsmooth, and {out} holds none; give another --out")
        return None
    if planned:
        try:
            return Plan.from_json(read_json(out, PLAN))
        except DatasetError as error:
            raise DatasetError(f"{out}: {error}; start again with --overwrite, or give another --out") from None
    if finished:
        raise ConflictError(f"{out} has a manifest but no {PLAN}: it was made elsewhere or damaged; give another --out")
    if not out.empty(but_temp=True):
        raise ConflictError(f"{out} is not empty and holds no run of textsmooth; give another --out")
    return None


def _is_ours(out: Folder, name: str) -> bool:
    """Whether a file begins as textsmooth writes it: a manifest.json may be anybody's."""
    return out.size(name) is not None and re.match(rb'\s*\{\s*"format"', out.read(name)) is not None


def _clear(out: Folder) -> None:
    """Remove a run of textsmooth: the files that a run makes, and nothing else that may lie beside them."""
    shards = [name for name in out.files() if SHARD.fullmatch(name) or (is_temp(name) and name.count("/") == 1)]
    out.remove((MANIFEST,))  # first: from here on it is no dataset
    out.remove((CARD, RECEIPTS, TOKENIZER_FOLDER, RUN, QUARANTINE))
    remove_receipts(out)
    out.remove(shards)
    out.prune(sorted({shard.partition("/")[0] for shard in shards}))
    out.remove((PLAN,))  # last: until here a run of textsmooth can be recognised
