"""What a training run needs, opened and checked before the first update: dataset, rows, student, objective, where to save.

Legend: R rows of the training split.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textsmooth.pipeline.sources import HUB_MODEL, find_model
from textsmooth.schemas.errors import DatasetError, MachineError, TextsmoothError, UsageError, first_line
from textsmooth.schemas.manifest import AGAIN, TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.collate import Batch, SmoothedCollator
from textsmooth.stages.distill import PASSES, Distiller
from textsmooth.stages.evaluate import Evaluation, labelled, main_metric
from textsmooth.stages.folder import Folder, is_uri
from textsmooth.stages.loader import SmoothedStream
from textsmooth.stages.masking import MASKED, MaskedCollator
from textsmooth.stages.model import teacher_digest
from textsmooth.stages.objectives import objective_for
from textsmooth.stages.smooth import SoftEmbedding
from textsmooth.stages.stream import SmoothedDataset
from textsmooth.stages.student import check_token_map, load_student, model_folder, positions
from textsmooth.stages.world import World

TRAIN_SPLIT = "train"
# What a tokenizer consists of; whatever else a dataset may bring there is not copied into a model's folder.
TOKENIZER_FILES = {
    f"{TOKENIZER_FOLDER}/{name}"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
}
MOST_CLASSES = 10_000


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run, ready to go."""

    options: TrainOptions
    world: World
    dataset: SmoothedDataset
    rows: NDArray[np.bool_] | None  # [R] that are trained on; None: all
    considered: int  # rows that would be, if all had labels
    label_kind: str  # class, value, span, or mlm
    classes: int  # 0 where there are none
    evaluation: Evaluation | None
    eval_split: str | None
    metric: str
    student: Any
    student_digest: str
    distiller: Distiller
    stream: SmoothedStream
    tokenizer_files: dict[str, bytes]
    note: str | None  # what the user should know of the input

    @property
    def manifest(self) -> Manifest:
        return self.dataset.manifest

    @property
    def count(self) -> int:
        """Rows that are trained on."""
        return len(self.dataset) if self.rows is None else int(self.rows.sum())

    def batches(self, state: dict[str, Any]) -> Iterator[list[Batch]]:
        """This process's parts of each global batch of an epoch, from where `state` says. DatasetError if a label is no class."""
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


def prepare(options: TrainOptions, dataset: SmoothedDataset, world: World, device: torch.device) -> Setup:
    """Open and check everything. UsageError, DatasetError, TeacherError, in one line, for whatever cannot work."""
    manifest = dataset.manifest
    kind = _kind(options, manifest)
    evaluated = _evaluated(options, dataset, kind)
    rows, considered = _rows(options, dataset, kind)
    names = _class_names(options, dataset, evaluated, kind)
    _check_stored(options, manifest)
    tokenizer_files = _tokenizer_files(dataset.folder, manifest)
    folder = student_folder(options.student)
    check_token_map(folder, manifest)
    torch.manual_seed(options.seed)  # of a new head
    student = load_student(folder, head=kind, label_names=names, label_kind=kind, dropout=options.dropout).to(device)
    for split in (dataset, *([] if evaluated is None else [evaluated[0]])):
        _check_length(split, positions(student))
    stream = _stream(options, dataset, rows, world)
    kd_temperature = options.temperature if kind == "mlm" else options.kd_temperature
    distiller = Distiller(
        student,
        objective_for(
            options.objective,
            None if kind == "mlm" else kind,
            kd_weight=options.teacher_share,
            kd_temperature=kd_temperature,
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
        label_kind=kind,
        classes=len(names) if kind == "class" else 0,
        evaluation=None if evaluated is None else _evaluation(options, *evaluated, kind),
        eval_split=None if evaluated is None else evaluated[0].name,
        metric=main_metric(kind, manifest.corpus.get("task")),
        student=student,
        student_digest=teacher_digest(folder),
        distiller=distiller,
        stream=stream,
        tokenizer_files=tokenizer_files,
        note=getattr(stream.collate, "note", None),
    )


def student_folder(name: str) -> Path:
    """The folder of a student: a local one, or owner/name of the Hub. UsageError if there is none."""
    if HUB_MODEL.fullmatch(name) and "/" in name and not Path(name).exists():
        return find_model(name, None, option="--student").folder
    return model_folder(name, "student")


def planned_steps(options: TrainOptions) -> int:
    """The updates that a run would make. UsageError, DatasetError if the dataset has not what it needs."""
    dataset = SmoothedDataset(options.dataset, TRAIN_SPLIT)
    rows, _ = _rows(options, dataset, _kind(options, dataset.manifest))
    _check_stored(options, dataset.manifest)
    return _steps(options, _stream(options, dataset, rows, World()))


def _kind(options: TrainOptions, manifest: Manifest) -> str:
    """What kind of labels the objective needs, and the dataset has; `mlm` for masked tokens."""
    where = f"the dataset in {options.dataset}"
    if options.objective == "mlm":
        if not str(manifest.config["context"]).startswith(MASKED):
            raise UsageError(f"{where} has soft ids of unmasked text, --objective mlm needs masked; generate it with --context masked:7")
        return "mlm"
    second = manifest.task_teacher
    if options.objective != "task" and second is None:
        raise UsageError(f"{where} has no teacher_logits for --objective {options.objective}; generate it with --task-teacher MODEL")
    kind = manifest.corpus["label_kind"]
    if kind is None and options.objective == "kd" and second is not None:
        return str(second["kind"])
    if kind is None:
        raise DatasetError(f"{where} has no labels, the task needs them; generate it with --label-column, or give --objective mlm")
    return str(kind)


def _has_labels(kind: str) -> bool:
    return kind in ("class", "value")


def _rows(options: TrainOptions, dataset: SmoothedDataset, kind: str) -> tuple[NDArray[np.bool_] | None, int]:
    """Which rows are trained on ([R]; None: all), and how many would be if all had labels. Reads labels only where it has to."""
    limit = len(dataset) if options.max_rows is None else min(options.max_rows, len(dataset))
    has_column = dataset.manifest.corpus["label_kind"] in ("class", "value")
    if options.rows_per_class is not None and not (kind == "class" and has_column):
        raise UsageError(f"--rows-per-class needs labels that are classes, the dataset in {options.dataset} has {kind}; use --max-rows")
    wanted = _has_labels(kind) and (options.objective != "kd" or options.rows_per_class is not None)
    all_labelled = not wanted or dataset.manifest.statistics.get("unlabelled_rows") == 0
    if all_labelled and limit == len(dataset) and options.rows_per_class is None:
        return None, limit
    usable = np.arange(len(dataset)) < limit
    if not all_labelled or options.rows_per_class is not None:
        labels = dataset.labels
        assert labels is not None
        usable &= labelled(labels)
        if not usable.any():
            raise DatasetError(f"no row of split {dataset.name!r} in {options.dataset} has a label; choose another split or dataset")
        if options.rows_per_class is not None:
            for label in np.unique(labels[usable]):
                of_class = np.flatnonzero(usable & (labels == label))
                usable[of_class[options.rows_per_class :]] = False
            return usable, int(usable.sum())
    return (None if usable.all() else usable), limit


def _evaluated(options: TrainOptions, dataset: SmoothedDataset, kind: str) -> tuple[SmoothedDataset, NDArray[np.int64]] | None:
    """The split asked for, or the first validation split that can be scored, with its rows; None if there is none."""
    asked = options.eval_split is not None
    splits = [options.eval_split] if asked else [s for s in dataset.manifest.splits if s.startswith(("validation", "dev"))]
    for name in splits:
        assert name is not None
        split = SmoothedDataset(options.dataset, name)
        labels = split.labels if _has_labels(kind) else None
        rows = np.arange(len(split)) if not _has_labels(kind) else np.flatnonzero(labelled(labels)) if labels is not None else np.zeros(0)
        if len(rows):
            return split, rows.astype(np.int64)
    if asked:
        raise DatasetError(f"no row of split {options.eval_split!r} in {options.dataset} has a label; choose another split or dataset")
    if options.patience is not None:
        raise UsageError("--patience needs a split to evaluate on, and this dataset has no labelled validation split; give --eval-split")
    return None


def _evaluation(options: TrainOptions, split: SmoothedDataset, rows: NDArray[np.int64], kind: str) -> Evaluation:
    return Evaluation(split, rows, kind=kind, pad_id=split.manifest.special_ids.get("pad") or 0, dtype=options.dtype)


def _class_names(
    options: TrainOptions, dataset: SmoothedDataset, evaluated: tuple[SmoothedDataset, NDArray[np.int64]] | None, kind: str
) -> tuple[str, ...]:
    """Names of the classes (LABEL_0 … where nothing has any); none unless labels are classes. DatasetError if a label is no class."""
    if kind != "class":
        return ()
    corpus, second = dataset.manifest.corpus, dataset.manifest.task_teacher
    names = corpus["label_names"]
    if names is None and second is not None:
        order = second.get("order") or range(second["width"])
        names = [(second.get("names") or [f"LABEL_{i}" for i in range(second["width"])])[i] for i in order]
    splits = (dataset, *([] if evaluated is None else [evaluated[0]]))
    if names is not None and dataset.manifest.statistics.get("unlabelled_rows") == 0:
        return tuple(names)  # labels are looked at as they are read
    highest = max((int(split.labels.max()) for split in splits if split.labels is not None), default=-1)
    if names is None and highest >= MOST_CLASSES:
        raise DatasetError(f"label {highest} is taken for a class, and {MOST_CLASSES:,} are the most; generate with another --label-column")
    found = tuple(names or (f"LABEL_{i}" for i in range(max(highest + 1, 2))))
    if highest >= len(found):
        raise DatasetError(f"label {highest} is none of the {len(found)} classes {', '.join(found)}; generate the dataset again")
    return found


def _check_stored(options: TrainOptions, manifest: Manifest) -> None:
    """UsageError if more is asked for than the dataset stores."""
    if options.reads == "plain":
        return
    stored = manifest.config
    if options.topk is not None and options.topk > stored["topk"]:
        raise UsageError(f"topk {options.topk}: the dataset stores {stored['topk']} entries per token; choose at most as many")
    if stored["mass"] < options.mass < 1.0:
        raise UsageError(f"mass {options.mass:g}: the dataset stores entries up to a mass of {stored['mass']:g}; choose at most that")


def _collator(options: TrainOptions, dataset: SmoothedDataset) -> Any:
    if options.reads == "masked":
        return MaskedCollator.for_dataset(dataset, smoothing=options.smoothing, seed=options.seed)
    return SmoothedCollator.for_dataset(dataset, smoothing=None if options.inputs == "plain" else options.smoothing, seed=options.seed)


def _stream(options: TrainOptions, dataset: SmoothedDataset, rows: NDArray[np.bool_] | None, world: World) -> SmoothedStream:
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


def _steps(options: TrainOptions, stream: SmoothedStream) -> int:
    """Updates of the run: those of the epochs, or as many as were asked for."""
    if options.max_steps is not None:
        return options.max_steps
    passes = len(PASSES[options.reads])
    if options.batch_tokens is None:
        return options.epochs * stream.steps * passes
    steps = 0
    for epoch in range(options.epochs):  # an epoch's order decides how its rows fall into batches
        stream.set_epoch(epoch)
        steps += stream.steps
    return steps * passes


def _loaded(stream: SmoothedStream, workers: int) -> Iterator[Batch]:
    """The batches of a stream, made by so many processes; the same ones, in the same order."""
    if not workers:
        yield from stream
        return
    from torch.utils.data import DataLoader

    try:
        yield from DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    except TextsmoothError as error:  # its text has the traceback of the other process, which ends with what was said there
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MachineError(f"a loader worker died ({first_line(error)}); give fewer --loader-workers, and --resume goes on") from error


def _as_it_is(batch: Any) -> Any:
    return batch


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


def out_folder(options: TrainOptions) -> Path:
    """Where to save. UsageError if that is the dataset, the student, or a folder they lie in or that lies in the dataset."""
    elsewhere = is_uri(options.dataset)
    called = PurePosixPath(options.dataset).name if elsewhere else Path(options.dataset).resolve().name
    objective = "" if options.objective == "task" else f"{options.objective.replace('+', '-')}-"
    out = Path(options.out or Path("students") / f"{called}-{objective}{options.reads}").expanduser()
    place = out.resolve()
    kept = {"student": Path(options.student).expanduser().resolve()}
    if not elsewhere:
        kept["dataset"] = Path(options.dataset).resolve()
    for name, folder in kept.items():
        if place == folder or place in folder.parents or (name == "dataset" and folder in place.parents):
            raise UsageError(f"--out {out} would touch the {name} {folder}; choose another folder")
    return out
