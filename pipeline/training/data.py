"""What of a dataset a student learns from and is scored on: the kind of labels, rows, the evaluation split, the names of classes.

Legend: R rows of a split.
"""

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.formatting import counted, size
from textsmooth.schemas.config import context_passes
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.tasks import MOST_CLASSES
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.training.evaluate import labelled


def label_kind_of(options: TrainOptions, manifest: Manifest) -> str:
    """What kind of labels the objective needs, and the dataset has; `mlm` for masked tokens."""
    where = f"the dataset in {options.dataset}"
    if options.objective == "mlm":
        if context_passes(manifest.config["context"]) == 1:
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


def _names(manifest: Manifest) -> list[str] | None:
    """Names of the classes by corpus or task teacher, if either has any."""
    names: list[str] | None = manifest.corpus["label_names"]
    second = manifest.task_teacher
    if names is not None or second is None:
        return names
    known = second.get("names") or [f"LABEL_{i}" for i in range(second["width"])]
    return [known[i] for i in second.get("order") or range(second["width"])]


def _all_labelled(dataset: SmoothedDataset) -> bool:
    return dataset.manifest.statistics.get("unlabelled_rows") == 0


def _chosen_by_label(options: TrainOptions, dataset: SmoothedDataset, kind: str) -> bool:
    """Whether it takes the labels to say which rows are trained on."""
    return options.rows_per_class is not None or (_has_labels(kind) and options.objective != "kd" and not _all_labelled(dataset))


def _named_by_label(dataset: SmoothedDataset, kind: str) -> bool:
    """Whether it takes the labels to say which classes there are; else they are looked at as they are read."""
    return kind == "class" and (_names(dataset.manifest) is None or not _all_labelled(dataset))


def read_first(options: TrainOptions, dataset: SmoothedDataset, kind: str) -> str | None:
    """A line that says what of a dataset elsewhere is fetched before the first update, and what for; None if nothing is."""
    labels = _chosen_by_label(options, dataset, kind) or _named_by_label(dataset, kind)
    lengths = options.batch_tokens is not None and options.max_steps is None
    if dataset.is_local or not (labels or lengths):
        return None
    last = len(dataset) if labels or options.max_rows is None else min(options.max_rows, len(dataset))
    shards = dataset.shards[: int(dataset.shards_of(np.array([last - 1]))[0]) + 1]
    why = "which labels there are"
    if not labels:
        why = f"how many batches of {options.batch_tokens:,} tokens there are; with --max-steps that is not needed"
    room = size(sum(shard.bytes for shard in shards))
    return f"fetching {counted(len(shards), 'shard')} ({room}) first, unless they are in the cache, to know {why}"


def trained_rows(options: TrainOptions, dataset: SmoothedDataset, kind: str) -> tuple[NDArray[np.bool_] | None, int]:
    """Which rows are trained on ([R]; None: all), and how many would be if all had labels. Reads labels only where it has to."""
    limit = len(dataset) if options.max_rows is None else min(options.max_rows, len(dataset))
    has_column = dataset.manifest.corpus["label_kind"] in ("class", "value")
    if options.rows_per_class is not None and not (kind == "class" and has_column):
        raise UsageError(f"--rows-per-class needs labels that are classes, the dataset in {options.dataset} has {kind}; use --max-rows")
    by_label = _chosen_by_label(options, dataset, kind)
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
    """Of how many rows of the corpus these windows are ([R]; None: all); None where rows were not cut into windows."""
    if all(shard.windows is None for shard in dataset.shards):
        return None
    if used is None:
        return sum(shard.rows - shard.skipped for shard in dataset.shards)
    numbers, seen = [], 0
    for batch in dataset.record_batches():
        numbers.append(batch.column("row").to_numpy())
        seen += len(batch)
        if not used[seen:].any():
            break
    return len(np.unique(np.concatenate(numbers)[used[:seen]]))


def evaluated_split(options: TrainOptions, dataset: SmoothedDataset, kind: str) -> tuple[SmoothedDataset, NDArray[np.int64]] | None:
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
        lacks = f"no row of split {options.eval_split!r} in {options.dataset} {'has a label' if _has_labels(kind) else 'is there'}"
        raise DatasetError(f"{lacks}; choose another split or dataset")
    if options.patience is not None:
        needed = f"{'labelled ' if _has_labels(kind) else ''}validation split"
        raise UsageError(f"--patience needs a split to evaluate on, and this dataset has no {needed}; give --eval-split")
    return None


def class_names(
    options: TrainOptions, dataset: SmoothedDataset, evaluated: tuple[SmoothedDataset, NDArray[np.int64]] | None, kind: str
) -> tuple[str, ...]:
    """Names of the classes (LABEL_0 … where nothing has any); none unless labels are classes. DatasetError if a label is no class."""
    if kind != "class":
        return ()
    names = _names(dataset.manifest)
    if names is not None and not _named_by_label(dataset, kind):
        return tuple(names)
    splits = (dataset, *([] if evaluated is None else [evaluated[0]]))
    highest = max((int(split.labels.max()) for split in splits if split.labels is not None), default=-1)
    if names is None and highest >= MOST_CLASSES:
        raise DatasetError(f"label {highest} is taken for a class, and {MOST_CLASSES:,} are the most; generate with another --label-column")
    found = tuple(names or (f"LABEL_{i}" for i in range(max(highest + 1, 2))))
    if highest >= len(found):
        raise DatasetError(f"label {highest} is none of the {len(found)} classes {', '.join(found)}; generate the dataset again")
    return found
