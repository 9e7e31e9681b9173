"""Select the data of a training run: the kind of labels, the rows, the evaluation split, the names of classes.

Legend: R rows of a split.
"""

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.formatting import counted, size
from textsmooth.schemas.config import context_passes
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.task_kinds import MASKED_TOKENS, NO_LABELS, TaskKind, task_kind
from textsmooth.schemas.tasks import MOST_CLASSES
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.statistics import captured_by_temperature, captured_warning
from textsmooth.stages.soft_ids.target_distribution import target_distribution
from textsmooth.stages.training.evaluate import labelled


def kind_of(options: TrainOptions, manifest: Manifest) -> TaskKind:
    """The kind of labels that are learned. UsageError or DatasetError if the dataset has not what the objective needs."""
    facts, where, teacher = options.facts, f"the dataset in {options.dataset}", manifest.task_teacher
    if facts.masked:
        if context_passes(manifest.config["context"]) == 1:
            raise UsageError(
                f"{where} has soft ids of unmasked text, --objective {options.objective} needs masked; generate it with --context masked:7"
            )
        return MASKED_TOKENS
    if facts.task_teacher and teacher is None:
        raise UsageError(f"{where} has no teacher_logits for --objective {options.objective}; generate it with --task-teacher MODEL")
    kind = task_kind(manifest.corpus["label_kind"])
    if kind is NO_LABELS and not facts.labels and teacher is not None:
        return task_kind(str(teacher["kind"]))
    if kind is NO_LABELS:
        raise DatasetError(f"{where} has no labels, the task needs them; generate it with --label-column, or give --objective mlm")
    return kind


def _names(manifest: Manifest) -> list[str] | None:
    """Names of the classes, from the corpus or the task teacher; None if neither has names."""
    names: list[str] | None = manifest.corpus["label_names"]
    teacher = manifest.task_teacher
    if names is not None or teacher is None:
        return names
    known = teacher.get("names") or [f"LABEL_{i}" for i in range(teacher["width"])]
    return [known[i] for i in teacher.get("order") or range(teacher["width"])]


def _all_labelled(dataset: SmoothedDataset) -> bool:
    return dataset.manifest.statistics.get("unlabelled_rows") == 0


def _rows_depend_on_labels(options: TrainOptions, dataset: SmoothedDataset, kind: TaskKind) -> bool:
    """Whether the labels must be read to know which rows are trained on."""
    return options.rows_per_class is not None or (kind.has_label_column and options.facts.labels and not _all_labelled(dataset))


def _classes_depend_on_labels(dataset: SmoothedDataset, kind: TaskKind) -> bool:
    """Whether all labels must be read to know the classes; otherwise each is checked when its batch is read."""
    return kind.has_classes and (_names(dataset.manifest) is None or not _all_labelled(dataset))


def read_first(options: TrainOptions, dataset: SmoothedDataset, kind: TaskKind) -> str | None:
    """A line about what is downloaded of a remote dataset before the first update, and why; None if nothing is."""
    labels = _rows_depend_on_labels(options, dataset, kind) or _classes_depend_on_labels(dataset, kind)
    lengths = options.batch_tokens is not None and options.max_steps is None
    if dataset.is_local or not (labels or lengths):
        return None
    last = len(dataset) if labels or options.max_rows is None else min(options.max_rows, len(dataset))
    shards = dataset.shards[: int(dataset.shards_of(np.array([last - 1]))[0]) + 1]
    why = "which labels there are"
    if not labels:
        why = f"how many batches of {options.batch_tokens:,} tokens there are; with --max-steps that is not needed"
    total = size(sum(shard.bytes for shard in shards))
    return f"fetching {counted(len(shards), 'shard')} ({total}) first, unless they are in the cache, to know {why}"


def captured_note(options: TrainOptions, dataset: SmoothedDataset) -> str | None:
    """A warning if the entries hold little of the probability at the chosen temperature; None if not, or if the tail is not read."""
    how = options.smoothing
    if options.reads in ("plain", "masked") or how.tail == "renormalize":
        return None
    topk = min(how.topk or dataset.manifest.config["topk"], dataset.manifest.config["topk"])
    masses = captured_by_temperature(dataset.manifest.statistics).get(how.temperature)
    if masses is None:  # not stored: interpolated from some rows
        soft = dataset.sample_soft_ids()
        if soft is None or not len(soft.ids):
            return None
        entries = target_distribution(soft, how, dataset.temperatures, dataset.vocab_size)
        captured = float(1 - entries.tail[entries.counts > 0].mean())
    else:
        captured = masses[max(rank for rank in masses if rank <= topk)]
    warning = captured_warning({how.temperature: captured}, topk, tail=how.tail)
    return None if warning is None else f"warning: {warning}"


def trained_rows(options: TrainOptions, dataset: SmoothedDataset, kind: TaskKind) -> tuple[NDArray[np.bool_] | None, int]:
    """Which rows are trained on ([R]; None: all), and how many would be if all had labels. Reads labels only if necessary."""
    limit = len(dataset) if options.max_rows is None else min(options.max_rows, len(dataset))
    has_classes = kind.has_classes and task_kind(dataset.manifest.corpus["label_kind"]).has_label_column
    if options.rows_per_class is not None and not has_classes:
        raise UsageError(
            f"--rows-per-class needs labels that are classes, the dataset in {options.dataset} has {kind.name}; use --max-rows"
        )
    by_label = _rows_depend_on_labels(options, dataset, kind)
    if not by_label and limit == len(dataset):
        return None, limit
    usable = np.arange(len(dataset)) < limit
    if by_label:
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


def corpus_rows(dataset: SmoothedDataset, used: NDArray[np.bool_] | None) -> int | None:
    """How many rows of the corpus the used windows come from; None if rows were not cut into windows. used: [R]; None: all."""
    if all(shard.windows is None for shard in dataset.shards):
        return None
    if used is None:
        return sum(shard.rows - shard.skipped for shard in dataset.shards)
    numbers, rows_read = [], 0
    for batch in dataset.record_batches():
        numbers.append(batch.column("row").to_numpy())
        rows_read += len(batch)
        if not used[rows_read:].any():
            break
    return len(np.unique(np.concatenate(numbers)[used[:rows_read]]))


def evaluated_split(options: TrainOptions, dataset: SmoothedDataset, kind: TaskKind) -> tuple[SmoothedDataset, NDArray[np.int64]] | None:
    """The split of --eval-split, or the first validation split that can be scored, with the rows to score; None if there is none."""
    if options.eval_split is not None:
        names = [options.eval_split]
    else:
        names = [split for split in dataset.manifest.splits if split.startswith(("validation", "dev"))]
    for name in names:
        split = SmoothedDataset(options.dataset, name)
        if not kind.has_label_column:
            rows = np.arange(len(split))
        else:
            rows = np.zeros(0, np.int64) if split.labels is None else np.flatnonzero(labelled(split.labels))
        if len(rows):
            return split, rows.astype(np.int64)
    if options.eval_split is not None:
        problem = "no row of split {!r} in {} has a label" if kind.has_label_column else "split {!r} in {} has no rows"
        raise DatasetError(f"{problem.format(options.eval_split, options.dataset)}; choose another split or dataset")
    if options.patience is not None:
        needed = f"{'labelled ' if kind.has_label_column else ''}validation split"
        raise UsageError(f"--patience needs a split to evaluate on, and this dataset has no {needed}; give --eval-split")
    return None


def class_names(
    options: TrainOptions, dataset: SmoothedDataset, evaluated: tuple[SmoothedDataset, NDArray[np.int64]] | None, kind: TaskKind
) -> tuple[str, ...]:
    """Names of the classes (LABEL_0 … without names); empty if labels are not classes. DatasetError for a label that is not a class."""
    if not kind.has_classes:
        return ()
    known = _names(dataset.manifest)
    if known is not None and not _classes_depend_on_labels(dataset, kind):
        return tuple(known)
    splits = (dataset, *([] if evaluated is None else [evaluated[0]]))
    highest = max((int(split.labels.max()) for split in splits if split.labels is not None), default=-1)
    if known is None and highest >= MOST_CLASSES:
        raise DatasetError(f"label {highest} is taken for a class, and {MOST_CLASSES:,} are the most; generate with another --label-column")
    names = tuple(known or (f"LABEL_{i}" for i in range(max(highest + 1, 2))))
    if highest >= len(names):
        raise DatasetError(f"label {highest} is none of the {len(names)} classes {', '.join(names)}; generate the dataset again")
    return names
