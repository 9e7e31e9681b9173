"""Run a generation: plan, skip finished units, run the others, commit."""

from dataclasses import dataclass, replace

from textsmooth.pipeline.commit.commit import commit, finished_units, tidy
from textsmooth.pipeline.commit.finished import Previous, TakenOver, check_settings
from textsmooth.pipeline.commit.run_folder import plan_in, publish_plan
from textsmooth.pipeline.executors import select
from textsmooth.pipeline.executors.base import Executor
from textsmooth.pipeline.executors.shutdown import Terminated, draining, terminating
from textsmooth.pipeline.generation.reuse import Gone, find_previous, take_over, with_changes
from textsmooth.pipeline.generation.run_record import RunRecord
from textsmooth.pipeline.plan.cut import FROM_CORPUS, make_plan, plan_warnings
from textsmooth.pipeline.plan.differences import few, plan_differences, same_rows, same_source
from textsmooth.pipeline.plan.inputs import check_apart, check_files_apart, default_out
from textsmooth.pipeline.plan.labels import label_notes, trainable
from textsmooth.pipeline.plan.resolve import Request, resolve_request
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
    """Result of a run."""

    out: str  # path or URI of the folder
    manifest: Manifest
    units: int  # run now; 0 if all were finished before
    tokens: int  # smoothed or read now
    load_s: float  # of loading the teacher
    run_s: float  # of running units
    busy: float  # share of run_s in which the forward pass ran
    taken: int = 0  # units taken over now
    kept: int = 0  # units that were finished before
    not_taken: tuple[str, ...] = ()  # shards that could not be taken over, one line each
    notes: tuple[str, ...] = ()  # remarks on columns and labels
    warnings: tuple[str, ...] = ()  # one line each
    trainable: bool = True  # False: on its labels no student can be trained


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A run before anything is written."""

    out: Folder
    request: Request
    plan: Plan
    new: bool  # the plan is not in the folder yet
    previous: Previous | Gone | None  # the dataset of --from-previous

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on columns and labels, for the user."""
        return (*self.request.notes, *label_notes(self.plan))


def generate(options: GenerateOptions, progress: Progress | None = None, *, executor: Executor | None = None) -> Generated:
    """Make a smoothed dataset, or finish it if it was begun.

    executor: used instead of the one that the options select.
    Raises UsageError, CorpusError, TeacherError, ConflictError or StorageError. A finished folder is never written again.
    """
    record = RunRecord(options)
    with progress or Progress("none") as shown, executor or select.select_executor(options) as running, record.kept(shown):
        running.tell = shown.emit
        made = _generate(options, shown, running, record)
        shown.finish({**record.to_json(), "out": made.out, "dataset": made.manifest.dataset})
        return made


def _generate(options: GenerateOptions, shown: Progress, executor: Executor, record: RunRecord) -> Generated:
    resolved = resolve(options, shown, executor)
    out, request, plan, new, previous = resolved.out, resolved.request, resolved.plan, resolved.new, resolved.previous
    if not new and out.size(MANIFEST) is not None:
        record.nothing_to_do(plan, executor)
        finished = tidy(out, plan)
        return Generated(
            out=str(out),
            manifest=finished,
            units=0,
            tokens=0,
            load_s=0.0,
            run_s=0.0,
            busy=0.0,
            notes=resolved.notes,
            warnings=plan_warnings(plan),
            trainable=trainable(plan),
        )
    done = {} if new else finished_units(out, plan)
    taken = TakenOver(receipts={})
    if previous is not None:  # before the teacher is loaded: no device waits while files are copied
        if new and not publish_plan(out, plan, overwrite=options.overwrite):
            return _generate(replace(options, overwrite=False), shown, executor, record)
        new = False
        left = [unit for unit in plan.units if unit.id not in done]
        taken = take_over(previous, out, left, skip_bad_rows=options.skip_bad_rows, progress=shown.taking)
        done |= taken.receipts
    todo = [unit for unit in plan.units if unit.id not in done]
    shown.start(
        plan,
        sum(r.rows for r in done.values()),
        units=len(done),
        out=str(out),
        executor=executor.name,
        notes=resolved.notes,
        warnings=plan_warnings(plan),
    )
    if not new:
        record.begin(out, plan, executor, reused=len(done))
    if todo:
        record.phase("loading")
        executor.load(plan, request.sources, out, shown.batch)
        if new and not publish_plan(out, plan, overwrite=options.overwrite):  # another driver was first: its plan counts
            return _generate(replace(options, overwrite=False), shown, executor, record)
        record.begin(out, plan, executor, reused=len(done))
        shown.ready(executor.num_workers)
    with draining(executor.stop):
        record.phase("running")
        quarantine.close(out, plan, _run(todo, plan, shown, executor, record))
        load_s, run_s, busy = shown.load_s, shown.elapsed_s, shown.busy
        record.phase("committing")
        manifest = commit(out, plan, request.tokenizer, last=record.write)
    return Generated(
        out=str(out),
        manifest=manifest,
        units=len(todo),
        tokens=shown.tokens,
        load_s=load_s,
        run_s=run_s,
        busy=busy,
        taken=len(taken.receipts),
        kept=len(done) - len(taken.receipts),
        not_taken=taken.problems,
        notes=resolved.notes,
        warnings=plan_warnings(plan),
        trainable=trainable(plan),
    )


def _run(todo: list[Unit], plan: Plan, shown: Progress, executor: Executor, record: RunRecord) -> list[UnitFailure]:
    """Run units and return the failures. Terminated if SIGTERM arrived before all were begun."""
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
    if left and terminating():
        raise Terminated
    return failures


def resolve(options: GenerateOptions, progress: Progress, executor: Executor) -> Resolved:
    """Resolve the options and plan the run, or read the plan in the folder. Nothing is written."""
    out = open_folder(options.out or default_out(options))
    check_apart(options, out)
    existing = plan_in(out, overwrite=options.overwrite)
    finished = existing is not None and out.size(MANIFEST) is not None
    previous = find_previous(options, out, existing, finished=finished)
    settings = previous.settings if existing is None and isinstance(previous, Previous) else existing
    request = resolve_request(options, settings, finished=finished, find_machine=executor.find_machine)
    if existing is not None or options.overwrite:
        check_files_apart(request.corpus, out)
    if existing is None:
        if isinstance(previous, Previous):
            check_settings(previous, request)
        plan = make_plan(request, progress.reading, skip_bad_rows=options.skip_bad_rows)
        if isinstance(previous, Previous):
            plan = with_changes(plan, previous, request.sources)
        return Resolved(out=out, request=request, plan=plan, new=True, previous=previous)
    different = plan_differences(request, existing, finished=finished)
    if different:
        raise ConflictError(f"{out} holds another run ({few(different)}); give another --out, or start again with --overwrite")
    plan = existing if same_source(request, existing) else same_rows(request, existing, progress.reading)
    from_corpus = {name: value for name, value in plan.runtime.items() if name in FROM_CORPUS}
    plan = replace(plan, runtime={**request.runtime, **from_corpus})  # decides nothing: the options of this run count
    return Resolved(out=out, request=request, plan=plan, new=False, previous=previous)
