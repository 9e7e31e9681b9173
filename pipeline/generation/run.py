"""A run of generation: plan, drop what is done, run units, commit."""

from dataclasses import dataclass, replace

from textsmooth.pipeline.commit.commit import commit, finished_units, tidy
from textsmooth.pipeline.commit.finished import Previous, Taken, check
from textsmooth.pipeline.commit.run_folder import plan_in, publish_plan
from textsmooth.pipeline.executors import select as executors
from textsmooth.pipeline.executors import shutdown as drain
from textsmooth.pipeline.executors.base import Executor
from textsmooth.pipeline.generation.reuse import Gone, compared, find_previous, take_over
from textsmooth.pipeline.generation.run_record import RunRecord
from textsmooth.pipeline.plan.cut import HIGHEST_LABEL, cut, label_note
from textsmooth.pipeline.plan.differences import differences, same_rows, same_source
from textsmooth.pipeline.plan.inputs import check_apart, check_files_apart, default_out
from textsmooth.pipeline.plan.resolve import Draft, draft
from textsmooth.pipeline.progress import Progress
from textsmooth.pipeline.units import quarantine
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import ConflictError
from textsmooth.schemas.manifest import MANIFEST, Manifest
from textsmooth.schemas.plan import Plan, Unit
from textsmooth.schemas.receipt import UnitFailure
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage.folder import Folder


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


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A run before anything is written."""

    out: Folder
    request: Draft
    plan: Plan
    new: bool  # the plan is not in the folder yet
    previous: Previous | Gone | None  # the dataset of --from-previous


def generate(options: GenerateOptions, progress: Progress | None = None, *, executor: Executor | None = None) -> Generated:
    """Make the smoothed dataset that is asked for, or finish it if it was begun.

    executor: one of your own, instead of the one that the options ask for.
    Raises UsageError, CorpusError, TeacherError, ConflictError or StorageError. A finished folder is never written again.
    """
    record = RunRecord(options)
    with progress or Progress("none") as shown, executor or executors.executor(options) as running, record.kept(shown):
        running.tell = shown.emit
        made = _generate(options, shown, running, record)
        shown.finish({**record.to_json(), "out": made.out, "dataset": made.manifest.dataset})
        return made


def _generate(options: GenerateOptions, shown: Progress, executor: Executor, record: RunRecord) -> Generated:
    resolved = resolve(options, shown, executor)
    out, asked, plan, new, previous = resolved.out, resolved.request, resolved.plan, resolved.new, resolved.previous
    if not new and out.size(MANIFEST) is not None:
        record.nothing_to_do(plan, executor)
        finished = tidy(out, plan)
        return Generated(out=str(out), manifest=finished, units=0, tokens=0, load_s=0.0, run_s=0.0, busy=0.0, note=label_note(plan))
    done = {} if new else finished_units(out, plan)
    taken = Taken(receipts={})
    if previous is not None:  # before the teacher is loaded: no device waits while files are copied
        if new and not publish_plan(out, plan, overwrite=options.overwrite):
            return _generate(replace(options, overwrite=False), shown, executor, record)
        new = False
        left = [unit for unit in plan.units if unit.id not in done]
        taken = take_over(previous, out, left, skip_bad_rows=options.skip_bad_rows, progress=shown.taking)
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


def resolve(options: GenerateOptions, progress: Progress, executor: Executor) -> Resolved:
    """Resolve the options and plan the run, or read the plan that is in the folder; nothing is written."""
    out = open_folder(options.out or default_out(options))
    check_apart(options, out)
    before = plan_in(out, overwrite=options.overwrite)
    finished = before is not None and out.size(MANIFEST) is not None
    previous = find_previous(options, out, before, finished=finished)
    open_as = previous.settings if before is None and isinstance(previous, Previous) else before
    asked = draft(options, open_as, finished=finished, look=executor.look)
    if before is not None or options.overwrite:
        check_files_apart(asked.corpus, out)
    if before is None:
        if not isinstance(previous, Previous):
            plan = cut(asked, progress.reading, skip_bad_rows=options.skip_bad_rows)
            return Resolved(out=out, request=asked, plan=plan, new=True, previous=previous)
        check(previous, asked)
        plan = compared(previous, cut(asked, progress.reading, skip_bad_rows=options.skip_bad_rows), asked.sources)
        return Resolved(out=out, request=asked, plan=plan, new=True, previous=previous)
    found = differences(asked, before, finished=finished)
    if found:
        raise ConflictError(
            f"{out} holds another run ({'; '.join(found[:4])}{' …' if len(found) > 4 else ''}); "
            "give another --out, or start again with --overwrite"
        )
    plan = before if same_source(asked, before) else same_rows(asked, before, progress.reading)
    read = {name: value for name, value in plan.runtime.items() if name == HIGHEST_LABEL}
    plan = replace(plan, runtime={**asked.runtime, **read})  # decides nothing: what is asked now counts
    return Resolved(out=out, request=asked, plan=plan, new=False, previous=previous)
