"""A training run: a smoothed dataset and a student in, a trained student out. Neither needs the teacher any more."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.train_progress import TrainProgress
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN, TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.tasks import TASKS
from textsmooth.schemas.train import TrainOptions
from textsmooth.schemas.version import VERSION
from textsmooth.stages.collate import Batch, SmoothedCollator
from textsmooth.stages.device import device_name, pick_device
from textsmooth.stages.distill import PASSES, Distiller, task_objective
from textsmooth.stages.evaluate import MAIN_METRIC, labelled, metrics, predict
from textsmooth.stages.folder import Folder, is_uri
from textsmooth.stages.smooth import SoftEmbedding
from textsmooth.stages.storage import pretty_json
from textsmooth.stages.stream import SmoothedDataset
from textsmooth.stages.student import (
    check_out,
    check_token_map,
    load_student,
    model_folder,
    new_model_folder,
    positions,
    save_model,
    weight_bytes,
)

TRAIN_SPLIT = "train"
# What a tokenizer consists of; whatever else a dataset may bring there is not copied into a model's folder.
TOKENIZER_FILES = {
    f"{TOKENIZER_FOLDER}/{name}"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
}
MOST_CLASSES = 10_000
RECORD = "train.json"  # what was done, beside the saved student


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training run made."""

    out: Path
    inputs: str
    metric: str  # name of the main metric
    metrics: dict[str, float | None]  # of the last evaluation; empty without an evaluation split
    eval_split: str | None
    steps: int  # optimizer updates
    rows: int  # trained on
    unlabelled_rows: int  # left out
    tokens: int  # through the student while training, padding not counted
    train_s: float  # of updates and their batches, evaluation and saving not counted

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.train_s, 1e-9)

    def summary(self) -> str:
        """A few lines for people: the score, the speed, where it is, what to do next."""
        left_out = f", {self.unlabelled_rows:,} unlabelled rows left out" if self.unlabelled_rows else ""
        score = "not evaluated: the dataset has no labelled validation split"
        if self.eval_split is not None:
            first = {self.metric: self.metrics.get(self.metric), **self.metrics}  # the one that counts
            shown = "  ".join(f"{k} {'undefined' if v is None else f'{v:.4f}'}" for k, v in first.items())
            score = f"{shown}  (on {self.eval_split}, plain input)"
        return "\n".join(
            [
                f"score    {score}",
                f"trained  {self.steps:,} updates on {self.rows:,} rows, {self.inputs} input{left_out}",
                f"speed    {self.tokens_per_s:,.0f} tokens/s, {self.train_s:.1f} s",
                f"saved    {self.out}  (details in {RECORD})",
                f'next     transformers.pipeline("text-classification", model="{self.out}")',
            ]
        )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The labelled rows of a split."""

    dataset: SmoothedDataset
    usable: NDArray[np.bool_]  # [R] of the whole split: has a label, and is among --max-rows
    labels: NDArray[Any]  # [R]
    limit: int  # rows considered

    @property
    def count(self) -> int:
        return int(self.usable.sum())

    @property
    def unlabelled(self) -> int:
        return self.limit - self.count

    def check_length(self, limit: int | None) -> None:
        longest = int(self.dataset.lengths.max())
        if limit is not None and longest > limit:
            raise UsageError(
                f"the longest row of {self.dataset.name} has {longest} tokens, the student has {limit} positions; "
                f"choose another student, or generate with --max-length {limit}"
            )


@dataclass(kw_only=True)
class _Score:
    """What became of the run so far."""

    tokens: int = 0
    train_s: float = 0.0
    evaluate_s: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(options: TrainOptions, progress: TrainProgress | None = None) -> TrainResult:
    """Train a student on a smoothed dataset and save it in a folder that transformers opens.

    Everything that can be wrong is checked before the first update. Raises UsageError, DatasetError, TeacherError (the student does
    not fit), ConflictError (the output folder), StorageError, or TrainingError (the loss is not a number). Seeds torch's generator
    and sets its threads; equal options, threads and libraries give equal weights on a CPU.
    """
    progress = progress or TrainProgress()
    started = time.perf_counter()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(pick_device(options.device))
    rows = _open(options.dataset, TRAIN_SPLIT, options.max_rows)
    manifest = rows.dataset.manifest
    evaluation = _open_evaluation(options, manifest)
    label_kind, names = _labels(rows, evaluation)
    _check_smoothing(options, manifest)
    tokenizer_files = _tokenizer_files(rows.dataset.folder, manifest)
    folder = model_folder(options.student, "student")
    out = _out(options, folder)
    check_token_map(folder, manifest)
    torch.manual_seed(options.seed)
    student = load_student(folder, label_names=names, label_kind=label_kind).to(device)
    for part in filter(None, (rows, evaluation)):
        part.check_length(positions(student))
    distiller = Distiller(
        student,
        task_objective(label_kind),
        soft=_soft(options, student, manifest),
        inputs=options.inputs,
        lr=options.lr,
        weight_decay=options.weight_decay,
        warmup=options.warmup,
        steps=_steps(options, rows.count),
        dtype=options.dtype,
    )
    score = _Score()
    with new_model_folder(out, overwrite=options.overwrite, room=weight_bytes(student)) as new:
        with progress.run(distiller.steps):
            if rows.unlabelled:
                progress.say(f"{rows.unlabelled:,} of {rows.limit:,} training rows have no label and are left out")
            _run(options, distiller, rows, evaluation, label_kind, score, progress)
        save_model(student, new)
        for name, data in tokenizer_files.items():
            (new / name).write_bytes(data)
        result = TrainResult(
            out=out,
            inputs=options.inputs,
            metric=_metric(manifest, label_kind),
            metrics=score.history[-1]["metrics"],
            eval_split=None if evaluation is None else evaluation.dataset.name,
            steps=distiller.done,
            rows=rows.count,
            unlabelled_rows=rows.unlabelled,
            tokens=score.tokens,
            train_s=score.train_s,
        )
        seconds = {"train": score.train_s, "evaluate": score.evaluate_s, "all": time.perf_counter() - started}
        record = _record(options, manifest, result, score, seconds, device)
        (new / RECORD).write_bytes(pretty_json(record))
    return result


def _run(
    options: TrainOptions,
    distiller: Distiller,
    rows: _Rows,
    evaluation: _Rows | None,
    label_kind: str,
    score: _Score,
    progress: TrainProgress,
) -> None:
    """Epoch after epoch until the updates are done, evaluating after each."""
    epoch = 0
    while distiller.done < distiller.steps:
        losses: dict[str, list[float]] = {form: [] for form in distiller.passes}
        start = time.perf_counter()
        for batch in _batches(options, rows, epoch, distiller.device):
            tokens = batch.tokens
            for update in distiller.updates(batch):
                score.tokens += tokens
                losses[update.form].append(update.loss)
                progress.update(update.loss, update.lr, tokens)
            if distiller.done == distiller.steps:
                break
        score.train_s += time.perf_counter() - start
        epoch += 1
        start = time.perf_counter()
        found = {} if evaluation is None else _evaluate(options, distiller, evaluation, label_kind)
        score.evaluate_s += time.perf_counter() - start
        means = {form: float(np.mean(values)) for form, values in losses.items() if values}
        score.history.append({"epoch": epoch, "steps": distiller.done, "train_loss": means, "metrics": found})
        progress.epoch(epoch, distiller.done, means, found)


def _batches(options: TrainOptions, rows: _Rows, epoch: int, device: torch.device) -> Iterator[Batch]:
    """The batches of an epoch; the order depends on the dataset, the seed and the epoch alone."""
    dataset = rows.dataset
    order = dataset.order(seed=options.seed, epoch=epoch, rows=options.max_rows)
    indices = order.take(0, len(order))
    indices = indices[rows.usable[indices]]
    collate = SmoothedCollator(
        pad_id=_pad_id(dataset.manifest),
        smoothing=None if options.inputs == "plain" else options.smoothing,
        temperatures=dataset.temperatures,
    )
    for start in range(0, len(indices), options.batch_size):
        yield collate(dataset.batch(indices[start : start + options.batch_size])).to(device)


def _evaluate(options: TrainOptions, distiller: Distiller, rows: _Rows, label_kind: str) -> dict[str, float | None]:
    chosen = np.flatnonzero(rows.usable)
    pad_id = _pad_id(rows.dataset.manifest)
    logits = predict(distiller.student, rows.dataset, chosen, pad_id=pad_id, dtype=options.dtype)
    return metrics(logits, rows.labels[chosen], label_kind)


def _metric(manifest: Manifest, label_kind: str) -> str:
    """The score that counts: the task's, where the corpus is a known one."""
    task = TASKS.get(manifest.corpus.get("task") or "")
    return task.metrics[0] if task else MAIN_METRIC[label_kind]


def _pad_id(manifest: Manifest) -> int:
    return manifest.special_ids.get("pad") or 0


def _steps(options: TrainOptions, rows: int) -> int:
    """Updates of the run: those of the epochs, or as many as were asked for."""
    batches = -(-rows // options.batch_size)
    return options.max_steps or options.epochs * batches * len(PASSES[options.inputs])


def _labelled(dataset: SmoothedDataset, max_rows: int | None) -> _Rows | None:
    """The labelled rows among the first max_rows; None if there are none, or no label column."""
    labels = dataset.labels
    if labels is None:
        return None
    limit = len(dataset) if max_rows is None else min(max_rows, len(dataset))
    usable = labelled(labels)
    usable[limit:] = False
    return _Rows(dataset=dataset, usable=usable, labels=labels, limit=limit) if usable.any() else None


def _open(folder: str, split: str, max_rows: int | None) -> _Rows:
    """A split with labels. DatasetError if it has no label column, or not one labelled row."""
    dataset = SmoothedDataset(folder, split)
    rows = _labelled(dataset, max_rows)
    if dataset.manifest.corpus["label_kind"] == "span":
        raise DatasetError(f"the dataset in {folder} has answers in contexts, and only labels of rows can be trained on as yet")
    if rows is None and dataset.labels is None:
        raise DatasetError(f"the dataset in {folder} has no labels, the task needs them; generate it with --label-column")
    if rows is None:
        raise DatasetError(f"no row of split {split!r} in {folder} has a label; choose another split or dataset")
    return rows


def _open_evaluation(options: TrainOptions, manifest: Manifest) -> _Rows | None:
    """The split asked for, or the first labelled validation split; None if there is none."""
    if options.eval_split is not None:
        return _open(options.dataset, options.eval_split, None)
    splits = (split for split in manifest.splits if split.startswith(("validation", "dev")))
    found = (_labelled(SmoothedDataset(options.dataset, split), None) for split in splits)
    return next((rows for rows in found if rows is not None), None)


def _labels(rows: _Rows, evaluation: _Rows | None) -> tuple[str, tuple[str, ...]]:
    """Label kind, and names of the classes (LABEL_0 … where the corpus has none). DatasetError if a label is no class."""
    corpus = rows.dataset.manifest.corpus
    kind = str(corpus["label_kind"])
    if kind == "value":
        return kind, ()
    highest = max(int(part.labels.max()) for part in (rows, evaluation) if part is not None)
    if corpus["label_names"] is None and highest >= MOST_CLASSES:
        raise DatasetError(f"label {highest} is taken for a class, and {MOST_CLASSES:,} are the most; generate with another --label-column")
    names = tuple(corpus["label_names"] or (f"LABEL_{i}" for i in range(max(highest + 1, 2))))
    if highest >= len(names):
        raise DatasetError(f"label {highest} is none of the {len(names)} classes {', '.join(names)}; generate the dataset again")
    return kind, names


def _check_smoothing(options: TrainOptions, manifest: Manifest) -> None:
    """UsageError if more is asked for than the dataset stores."""
    if options.inputs == "plain":
        return
    stored = manifest.config
    if options.topk is not None and options.topk > stored["topk"]:
        raise UsageError(f"topk {options.topk}: the dataset stores {stored['topk']} entries per token; choose at most as many")
    if stored["mass"] < options.mass < 1.0:
        raise UsageError(f"mass {options.mass:g}: the dataset stores entries up to a mass of {stored['mass']:g}; choose at most that")
    options.smoothing.partition_column(tuple(t for t in stored["temperatures"] if t != 1.0))


def _soft(options: TrainOptions, student: Any, manifest: Manifest) -> SoftEmbedding | None:
    if options.inputs == "plain":
        return None
    return SoftEmbedding(student.get_input_embeddings(), vocab_size=int(manifest.teacher["vocab_size"]))


def _tokenizer_files(folder: Folder, manifest: Manifest) -> dict[str, bytes]:
    """The files of the dataset's tokenizer by name, checked against the manifest. DatasetError if one is missing or altered."""
    entries = [entry for entry in manifest.files if entry.path in TOKENIZER_FILES]
    if not entries:
        raise DatasetError(f"{folder} has no {TOKENIZER_FOLDER}/ in its manifest; generate the dataset again")
    found = folder.read_all([entry.path for entry in entries])
    for entry in entries:
        if hashlib.sha256(found.get(entry.path, b"")).hexdigest() != entry.sha256:
            raise DatasetError(f"{entry.path} in {folder} is missing or was altered; {AGAIN}")
    return {PurePosixPath(name).name: data for name, data in found.items()}


def _out(options: TrainOptions, student: Path) -> Path:
    """Where to save. UsageError if that is the dataset, the student, or a folder they lie in or that lies in the dataset."""
    elsewhere = is_uri(options.dataset)
    called = PurePosixPath(options.dataset).name if elsewhere else Path(options.dataset).resolve().name
    out = Path(options.out or Path("students") / f"{called}-{options.inputs}").expanduser()
    place = out.resolve()
    dataset = {} if elsewhere else {"dataset": Path(options.dataset).resolve()}
    for name, kept in {**dataset, "student": student.resolve()}.items():
        if place == kept or place in kept.parents or (name == "dataset" and kept in place.parents):
            raise UsageError(f"--out {out} would touch the {name} {kept}; choose another folder")
    check_out(out, overwrite=options.overwrite)
    return out


def _record(
    options: TrainOptions, manifest: Manifest, result: TrainResult, score: _Score, seconds: dict[str, float], device: torch.device
) -> dict[str, Any]:
    """The content of train.json."""
    import transformers

    facts = {k: v for k, v in asdict(result).items() if k not in ("out", "train_s")}
    return {
        **facts,
        "tokens_per_s": result.tokens_per_s,
        "seconds": seconds,
        "history": score.history,
        "options": options.to_json(),
        "dataset": {"digest": manifest.dataset, "corpus": manifest.corpus["name"], "teacher": manifest.teacher["name"]},
        "device": device_name(str(device)),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "versions": {"textsmooth": VERSION, "torch": torch.__version__, "transformers": transformers.__version__},
    }
