"""Run a training: from a smoothed dataset and a student to a trained student, without the teacher."""

import time
from pathlib import Path
from typing import Any

import torch

from textsmooth.pipeline.progress import TrainProgress
from textsmooth.pipeline.training.data import corpus_rows
from textsmooth.pipeline.training.log import LOG, TrainLog
from textsmooth.pipeline.training.places import out_folder, student_folder
from textsmooth.pipeline.training.result import RECORD, TrainResult, finished_before, record, versions
from textsmooth.pipeline.training.setup import Setup, prepare
from textsmooth.pipeline.training.stop import Stop
from textsmooth.schemas.errors import ConflictError, TextsmoothError
from textsmooth.schemas.tasks import TRAIN_SPLIT
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.collate import Batch
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.models.device import default_threads, pick_device
from textsmooth.stages.models.load import teacher_digest
from textsmooth.stages.models.model_folder import check_out, new_model_folder
from textsmooth.stages.models.student import save_model, weight_bytes
from textsmooth.stages.storage.atomic import pretty_json, remove
from textsmooth.stages.training import checkpoint
from textsmooth.stages.training.checkpoint import TrainState
from textsmooth.stages.training.distributed import World
from textsmooth.stages.training.evaluate import higher_is_better
from textsmooth.stages.training.step import TrainingError, Update


def train_here(options: TrainOptions, progress: TrainProgress, world: World, stop_file: Path | None = None) -> TrainResult:
    """As `train`, in this process, which is one of `world`. stop_file: a file whose existence is a request to stop."""
    started = time.perf_counter()
    torch.set_num_threads(
        options.threads or min(torch.get_num_threads(), default_threads())
    )  # torch does not see the CPU limit of a container
    device = torch.device(pick_device(world.device(options.device)))
    dataset = SmoothedDataset(options.dataset, TRAIN_SPLIT)
    out = out_folder(options)
    run = run_folder(out)
    with world, Stop(stop_file) as stop:
        world.join(device)
        done = world.share(_finished(out, options, dataset) if world.first and options.continues else None)
        if done is not None:
            if world.first:
                remove(run)
            return TrainResult.from_json(done, out, before=True)
        if world.first:
            check_out(out, overwrite=options.overwrite)
        setup = prepare(options, dataset, world, device, progress.line if world.first else lambda line: None)
        state = _begin(setup, run)
        with progress, _log(setup, run, progress, state) as log:
            trained = _Run(setup, state, run, log, stop)
            try:
                trained.go()
            except TextsmoothError as error:
                raise _with_way_on(error, run, world) from error
            found = trained.result(out)
            log.event("finished", step=found.steps, saved_step=found.saved_step, metric=found.metric, metrics=found.metrics)
        seconds = {"train": state.train_s, "evaluate": state.evaluate_s, "this_process": time.perf_counter() - started}
        if world.first:
            _save(setup, state, found, run, out, seconds)
    return found


def _finished(out: Path, options: TrainOptions, dataset: SmoothedDataset) -> dict[str, Any] | None:
    if not (out / RECORD).is_file():  # before the student's weights are hashed
        return None
    return finished_before(out, options, dataset.manifest, teacher_digest(student_folder(options)))


def run_folder(out: Path) -> Path:
    """The folder of a run's checkpoints and log until its student is saved."""
    return out.with_name(f"{out.name}.run")


class _Run:
    """The updates of a run, from `state` to the last one."""

    def __init__(self, setup: Setup, state: TrainState, run: Path, log: TrainLog, stop: Stop) -> None:
        self.setup, self.state, self.run, self.log, self.stop = setup, state, run, log, stop
        self.options, self.train_step, self.world = setup.options, setup.train_step, setup.world
        self._clock = time.perf_counter()
        self._saved = -1  # the update of the last checkpoint

    def go(self) -> None:
        """Train until all updates are made, or --patience ends the run."""
        state, train_step = self.state, self.train_step
        while train_step.done < train_step.steps and not state.ended:
            for parts in self.setup.batches(state.stream):
                before, stopping = train_step.done, False
                for form in train_step.passes[: train_step.steps - train_step.done]:
                    update = train_step.update(parts, form, stop=self.stop.asked)
                    self._note(update)
                    stopping = stopping or update.asked_to_stop
                epoch_over, over = self._move_on(parts[-1]), train_step.done == train_step.steps
                if over or _due(self.options.eval_every, before, state.update, otherwise=epoch_over):
                    self._evaluate()
                if stopping or _due(self.options.checkpoint_every, before, state.update, otherwise=False):
                    self._save()
                if over or state.ended:
                    return
                if stopping:
                    raise self.stop.stopped(state.update, train_step.steps, self.run, self.options.way_on)

    def _note(self, update: Update) -> None:
        state, now = self.state, time.perf_counter()
        state.update = update.number
        state.rows += update.rows
        state.tokens += update.tokens
        state.train_s += now - self._clock
        self._clock = now
        total, count = state.losses.get(update.form, (0.0, 0))
        state.losses[update.form] = [total + update.loss, count + 1]
        self.log.update(
            step=update.number,
            epoch=state.epoch + 1,
            form=update.form,
            loss=update.loss,
            lr=update.lr,
            grad_norm=update.grad_norm,
            rows=update.rows,
            tokens=update.tokens,
            seconds=round(state.train_s, 6),
        )

    def _move_on(self, batch: Batch) -> bool:
        """Record that a global batch is consumed. Returns whether it was the last of its epoch."""
        state, epoch = self.state, self.state.epoch
        state.stream = self.setup.stream.state_after(batch)
        state.epoch = state.stream["epoch"]
        return state.epoch > epoch

    def _evaluate(self) -> None:
        """Score the student, log the scores, keep track of the best state, save a checkpoint if one is due."""
        setup, state, options = self.setup, self.state, self.options
        start = time.perf_counter()
        found = setup.evaluation(setup.student) if setup.evaluation is not None and self.world.first else {}
        found = self.world.share(found)
        now = time.perf_counter()
        state.evaluate_s += now - start
        means = {form: total / count for form, (total, count) in state.losses.items()}
        epoch = state.epoch + (state.stream["step"] > 0)  # current or just finished, from 1
        entry = {"epoch": epoch, "steps": state.update, "train_loss": means, "metrics": found}
        state.losses = {}
        state.history.append(entry)
        self.log.evaluation(step=state.update, epoch=epoch, train_loss=means, metrics=found, seconds=round(now - start, 6))
        better = options.patience is not None and self._is_better(found)
        if options.patience is not None:
            state.waited = 0 if better else state.waited + 1
            state.ended = state.waited >= options.patience
        if options.checkpoint_every is None or better:
            self._save()
        self._clock = time.perf_counter()

    def _is_better(self, found: dict[str, float | None]) -> bool:
        state, score = self.state, found.get(self.setup.metric)
        if score is None:
            return False
        sign = 1 if higher_is_better(self.setup.metric) else -1
        if state.best_score is not None and sign * score <= sign * state.best_score:
            return False
        state.best_score, state.best_update = score, state.update
        return True

    def _save(self) -> None:
        if self.world.first and self._saved != self.state.update:
            checkpoint.save(self.run, self.setup.student, self.train_step.optimizer, self.state)
            self._saved = self.state.update
        self._clock = time.perf_counter()

    def result(self, out: Path) -> TrainResult:
        """The result. With --patience it is that of the best state, to which the student is reset."""
        state, setup = self.state, self.setup
        chosen = state.history[-1]
        if state.best_update is not None and state.best_update != state.update:
            if self.world.first:
                checkpoint.restore(self.run / checkpoint.name_of(state.best_update), setup.student)
            chosen = next(entry for entry in state.history if entry["steps"] == state.best_update)
        return TrainResult(
            out=out,
            inputs=self.options.reads,
            objective=self.options.objective,
            kind=setup.kind.name or "",
            metric=setup.metric,
            metrics=chosen["metrics"],
            eval_split=setup.eval_split,
            steps=state.update,
            saved_step=chosen["steps"],
            rows=setup.count,
            unlabelled_rows=setup.considered - setup.count,
            corpus_rows=corpus_rows(setup.dataset, setup.rows),
            tokens=state.tokens,
            train_s=state.train_s,
        )


def _due(every: int | None, before: int, now: int, *, otherwise: bool) -> bool:
    """Whether a multiple of `every` updates was reached; `otherwise` if `every` is None."""
    return otherwise if every is None else before // every < now // every


def _begin(setup: Setup, run: Path) -> TrainState:
    """The state to start from: that of the last checkpoint, or a fresh one. The first process's state goes to all."""
    options, train_step = setup.options, setup.train_step
    fresh = TrainState(options=options.fixed(), dataset=setup.manifest.dataset, student=setup.student_digest, versions=versions())
    found = None
    if setup.world.first:
        checkpoint.sweep(run)
        there = checkpoint.checkpoints(run) if options.continues else []
        state = checkpoint.read_state(there[-1]) if there else None
        differs = None if state is None else differences(state, fresh)
        if differs and not options.overwrite:
            raise ConflictError(f"cannot resume {run}: {differs}; give what it began with, or begin again with --overwrite")
        if state is None or differs:
            remove(run)
        else:
            found = state.to_json()
    found = setup.world.share(found)
    if found is None:
        return fresh
    state = TrainState.from_json(found, str(run))
    checkpoint.restore(run / checkpoint.name_of(state.update), setup.student, train_step.optimizer)
    train_step.done = state.update
    return state


def differences(then: TrainState, now: TrainState) -> str | None:
    """The settings in which a checkpoint and the resumed run differ, as text; None if there are none."""
    found = []
    for name in {**then.options, **now.options}:
        before, after = then.options.get(name), now.options.get(name)
        if before != after:
            found.append(f"{name} was {before!r}, now {after!r}")
    for what, a, b in (("dataset", then.dataset, now.dataset), ("student", then.student, now.student)):
        if a != b:
            found.append(f"the {what} was {a[:12]}, now {b[:12]}")
    return "; ".join(found) or None


def _log(setup: Setup, run: Path, progress: TrainProgress, state: TrainState) -> TrainLog:
    log = TrainLog(run if setup.world.first else None, log_dir=setup.options.log_dir, progress=progress, update=state.update)
    if state.versions != (now := versions()):
        then = ", ".join(f"{name} {version}" for name, version in state.versions.items() if now.get(name) != version)
        progress.line(f"this run began with {then}: the rest may differ from what it would have been in the last digits")
        state.versions = now
    left_out = setup.considered - setup.count
    shared: dict[str, Any] = {"steps": setup.train_step.steps, "rows": setup.count, "unlabelled_rows": left_out}
    if setup.note is not None:
        shared["note"] = setup.note
    log.event("resumed" if state.update else "started", step=state.update, **shared)
    return log


def _with_way_on(error: TextsmoothError, run: Path, world: World) -> TextsmoothError:
    """The error of a failed run, with what was saved; without a checkpoint the run's folder is removed."""
    there = checkpoint.checkpoints(run)
    if not there and world.first:
        remove(run)
    if isinstance(error, TrainingError):
        kept = f"the state after update {checkpoint.read_state(there[-1]).update:,} is in {run}" if there else "nothing was saved"
        return TrainingError(f"{error}; {kept}")
    return error


def _save(setup: Setup, state: TrainState, found: TrainResult, run: Path, out: Path, seconds: dict[str, float]) -> None:
    """Put the student in its place, whole or not at all, with what was done; then the run's folder goes."""
    with new_model_folder(out, overwrite=setup.options.overwrite, needed_bytes=weight_bytes(setup.student)) as new:
        save_model(setup.student, new)
        for name, data in setup.tokenizer_files.items():
            (new / name).write_bytes(data)
        (new / RECORD).write_bytes(pretty_json(record(setup, state, found, seconds)))
        (new / LOG).write_bytes((run / LOG).read_bytes())
    remove(run)
