"""Prepare a training run: open and check dataset, student, objective and stream of batches before the first update.

Legend: R rows of the training split.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.token_text import tokenizer_remedy
from textsmooth.pipeline.training.data import captured_note, class_names, evaluated_split, kind_of, read_first, trained_rows
from textsmooth.pipeline.training.places import student_folder
from textsmooth.schemas.errors import DatasetError, MachineError, TextsmoothError, UsageError, first_line
from textsmooth.schemas.manifest import TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.task_kinds import TaskKind
from textsmooth.schemas.tasks import TRAIN_SPLIT
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.batch_stream import BatchStream
from textsmooth.stages.dataset.collate import Batch, SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.mlm_collate import MaskedCollator
from textsmooth.stages.models.load import teacher_digest
from textsmooth.stages.models.student import check_token_map, load_student, positions
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.training.distributed import World
from textsmooth.stages.training.evaluate import Evaluation, main_metric
from textsmooth.stages.training.losses import objective_for
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.step import PASSES, TrainStep

# The files of a tokenizer. Others that lie in the dataset's tokenizer folder are not copied into the student's.
TOKENIZER_FILES = {
    f"{TOKENIZER_FOLDER}/{name}"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A prepared run."""

    options: TrainOptions
    world: World
    dataset: SmoothedDataset
    rows: NDArray[np.bool_] | None  # [R] rows that are trained on; None: all
    considered: int  # number of rows that would be trained on if all had labels
    kind: TaskKind  # of what is predicted
    classes: int  # 0 where there are none
    evaluation: Evaluation | None
    eval_split: str | None
    metric: str
    student: Any
    student_digest: str
    train_step: TrainStep
    stream: BatchStream
    tokenizer_files: dict[str, bytes]
    note: str | None  # a remark for the user about the input

    @property
    def manifest(self) -> Manifest:
        return self.dataset.manifest

    @property
    def count(self) -> int:
        """The number of rows that are trained on."""
        return len(self.dataset) if self.rows is None else int(self.rows.sum())

    def batches(self, state: dict[str, Any]) -> Iterator[list[Batch]]:
        """This process's parts of each global batch of an epoch, from `state` on. DatasetError if a label is not a class."""
        if state:
            self.stream.load_state_dict(state)
        else:
            self.stream.set_epoch(0)
        parts: list[Batch] = []
        for batch in _loaded(self.stream, self.options.loader_workers):
            if self.classes and batch.labels is not None and int(batch.labels.max()) >= self.classes:
                raise DatasetError(f"label {int(batch.labels.max())} is none of the {self.classes} classes; generate the dataset again")
            parts.append(batch)
            if len(parts) == self.options.accumulate:
                yield parts
                parts = []


def prepare(options: TrainOptions, dataset: SmoothedDataset, world: World, device: torch.device, say: Callable[[str], object]) -> Setup:
    """Open and check everything. UsageError, DatasetError or TeacherError, each in one line, if the run cannot work.

    say: called with a line about what takes long, or a warning.
    """
    manifest = dataset.manifest
    kind = kind_of(options, manifest)
    if download := read_first(options, dataset, kind):
        say(download)
    evaluated = evaluated_split(options, dataset, kind)
    rows, considered = trained_rows(options, dataset, kind)
    names = class_names(options, dataset, evaluated, kind)
    _check_stored(options, manifest)
    if warning := captured_note(options, dataset):
        say(warning)
    tokenizer_files = _tokenizer_files(dataset.folder, manifest)
    folder = student_folder(options)
    check_token_map(folder, manifest)
    torch.manual_seed(options.seed)  # for the weights of a new head
    student = load_student(folder, head=kind.name, label_names=names, dropout=options.dropout).to(device)
    for split in (dataset, *([] if evaluated is None else [evaluated[0]])):
        _check_length(split, positions(student))
    stream = _stream(options, dataset, rows, world)
    train_step = TrainStep(
        student,
        objective_for(
            options.objective,
            kind,
            kd_weight=options.teacher_share,
            kd_temperature=options.teacher_temperature,
            vocab_size=int(manifest.teacher["vocab_size"]),
        ),
        soft=_soft(options, student, manifest),
        reads=options.reads,
        lr=options.lr,
        weight_decay=options.weight_decay,
        warmup=options.warmup,
        schedule=options.schedule,
        max_grad_norm=options.max_grad_norm,
        steps=_steps(options, stream),
        dtype=options.dtype,
        seed=options.seed,
        world=world,
    )
    return Setup(
        options=options,
        world=world,
        dataset=dataset,
        rows=rows,
        considered=considered,
        kind=kind,
        classes=len(names),
        evaluation=None if evaluated is None else _evaluation(options, *evaluated, kind),
        eval_split=None if evaluated is None else evaluated[0].name,
        metric=main_metric(kind, manifest.corpus.get("task")),
        student=student,
        student_digest=teacher_digest(folder),
        train_step=train_step,
        stream=stream,
        tokenizer_files=tokenizer_files,
        note=getattr(stream.collate, "note", None),
    )


def planned_steps(options: TrainOptions, say: Callable[[str], object]) -> int:
    """The number of updates of a run. UsageError or DatasetError if the dataset does not have what it needs. say: as for `prepare`."""
    dataset = SmoothedDataset(options.dataset, TRAIN_SPLIT)
    kind = kind_of(options, dataset.manifest)
    _check_stored(options, dataset.manifest)
    if warning := captured_note(options, dataset):
        say(warning)
    if download := read_first(options, dataset, kind):
        say(download)
    rows, _ = trained_rows(options, dataset, kind)
    return _steps(options, _stream(options, dataset, rows, World()))


def _evaluation(options: TrainOptions, split: SmoothedDataset, rows: NDArray[np.int64], kind: TaskKind) -> Evaluation:
    return Evaluation(split, rows, kind=kind, pad_id=split.manifest.special_ids.get("pad") or 0, dtype=options.dtype)


def _check_stored(options: TrainOptions, manifest: Manifest) -> None:
    """UsageError if topk or mass is more than the dataset stores."""
    if options.reads == "plain":
        return
    stored = manifest.config
    if options.topk is not None and options.topk > stored["topk"]:
        raise UsageError(f"topk {options.topk}: the dataset stores {stored['topk']} entries per token; choose at most as many")
    if stored["mass"] < options.mass < 1.0:
        raise UsageError(f"mass {options.mass!r}: the dataset stores entries up to a mass of {stored['mass']!r}; choose at most that")


def _collator(options: TrainOptions, dataset: SmoothedDataset) -> Any:
    if options.reads == "masked":
        return MaskedCollator.for_dataset(dataset, smoothing=options.smoothing, seed=options.seed)
    return SmoothedCollator.for_dataset(dataset, smoothing=None if options.inputs == "plain" else options.smoothing, seed=options.seed)


def _stream(options: TrainOptions, dataset: SmoothedDataset, rows: NDArray[np.bool_] | None, world: World) -> BatchStream:
    return dataset.stream(
        _collator(options, dataset),
        batch_size=options.rows_per_batch,
        batch_tokens=options.batch_tokens,
        seed=options.seed,
        rows=rows,
        rank=world.rank,
        world_size=world.size,
        parts=options.accumulate,
        pad=world.size * options.accumulate > 1,
    )


def _check_length(dataset: SmoothedDataset, limit: int | None) -> None:
    if limit is None or dataset.manifest.config["max_length"] <= limit:
        return
    longest = int(dataset.lengths.max())
    if longest > limit:
        raise UsageError(
            f"the longest row of {dataset.name} has {longest} tokens, the student has {limit} positions; "
            f"choose another student, or generate with --max-length {limit}"
        )


def _soft(options: TrainOptions, student: Any, manifest: Manifest) -> SoftEmbedding | None:
    if options.reads in ("plain", "masked"):
        return None
    return SoftEmbedding(student.get_input_embeddings(), vocab_size=int(manifest.teacher["vocab_size"]))


def _steps(options: TrainOptions, stream: BatchStream) -> int:
    """The number of updates of the run: --max-steps, or those of all epochs."""
    if options.max_steps is not None:
        return options.max_steps
    passes = len(PASSES[options.reads])
    if options.batch_tokens is None:
        return options.epochs * stream.steps * passes
    steps = 0
    for epoch in range(options.epochs):  # the number of batches depends on the order of an epoch
        stream.set_epoch(epoch)
        steps += stream.steps
    return steps * passes


def _loaded(stream: BatchStream, workers: int) -> Iterator[Batch]:
    """The batches of a stream, made by `workers` loader processes (0: this one), in the same order."""
    if not workers:
        yield from stream
        return
    from torch.utils.data import DataLoader

    try:
        yield from DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=_unchanged)
    except TextsmoothError as error:  # its text is the worker's traceback, which ends with the error line
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MachineError(
            f"a loader worker died ({first_line(error)}); give fewer --loader-workers, and the same command goes on"
        ) from error


def _unchanged(batch: Any) -> Any:
    return batch


def _tokenizer_files(folder: Folder, manifest: Manifest) -> dict[str, bytes]:
    """The files of the dataset's tokenizer by name, checked against the manifest. DatasetError if one is missing or altered."""
    entries = [entry for entry in manifest.files if entry.path in TOKENIZER_FILES]
    if not entries:
        raise DatasetError(f"{folder} has no {TOKENIZER_FOLDER}/ in its manifest; generate the dataset again")
    files = folder.read_all([entry.path for entry in entries])
    for entry in entries:
        if hashlib.sha256(files.get(entry.path, b"")).hexdigest() != entry.sha256:
            raise DatasetError(f"{entry.path} in {folder} is missing or was altered; {tokenizer_remedy(folder)}")
    return {PurePosixPath(name).name: data for name, data in files.items()}
