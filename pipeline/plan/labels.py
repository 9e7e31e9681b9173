"""What the labels of a corpus are, from the values of its label column: classes, with or without names, or numbers."""

from typing import Any

from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.plan import CorpusIdentity, Plan
from textsmooth.schemas.task_kinds import CLASS, VALUE, task_kind
from textsmooth.schemas.tasks import MOST_CLASSES, TASKS
from textsmooth.stages.corpus.column_types import ColumnKind, cell_type
from textsmooth.stages.corpus.corpus import Corpus

# Of Plan.runtime: read from the corpus, while the rest of it comes from the options.
HIGHEST_LABEL = "highest_label"
WHOLE_LABELS = "whole_labels"  # the range of floats that are all whole
FROM_LABELS = (HIGHEST_LABEL, WHOLE_LABELS)


def label_facts(identity: CorpusIdentity, corpus: Corpus, seen: ColumnKind | None) -> dict[str, Any]:
    """label_kind and label_names of the corpus, from the types and values seen. CorpusError for labels that are neither.

    Where the classes have names, by the corpus or its task, a label may be a name, or the number of a class as an integer, a whole float,
    or a string of digits.
    """
    if seen is None:
        return {}
    task = TASKS.get(identity.task or "")
    kind = task_kind(task.label_kind) if task else None
    what, types = f"label column {seen.column!r} of {corpus.name}", seen.types
    declared = None if kind is VALUE else corpus.class_names.get(seen.column) or (task.label_names if task else None)
    if seen.endless:
        raise CorpusError(f"{what} is infinite in {seen.endless}: a number is needed, or null for no label")
    if types <= {int, float} and declared is None and (float in types or kind is VALUE):
        return {"label_kind": VALUE.name}
    if task and kind is VALUE:
        raise CorpusError(f"{what} {seen.mixture(f', {task.name} has numbers')}")
    if types == {str} and declared is None:
        return {"label_kind": CLASS.name, "label_names": seen.classes(corpus.name)}
    if types <= ({int, bool} if declared is None else {int, bool, float, str}):
        _check_classes(what, task.name if task else corpus.name, declared, seen)
        return {"label_kind": CLASS.name, "label_names": declared or (("false", "true") if types == {bool} else None)}
    raise CorpusError(f"{what} {seen.mixture(': numbers or strings are needed, of one kind')}")


def _check_classes(what: str, owner: str, declared: tuple[str, ...] | None, seen: ColumnKind) -> None:
    """CorpusError for a label that is the number or the name of no class. owner: the task or the corpus, whose classes they are."""
    classes = "" if declared is None else f"its {len(declared)} classes are 0..{len(declared) - 1} ({', '.join(declared)})"
    numbers = [seen.lowest, seen.highest]
    if declared is not None:
        strings = {name: place for name, place in seen.names.items() if name not in declared}
        numbers += [(int(name), place) for name, place in strings.items() if cell_type(name) is int]
        wrong = [f"{name!r}, which is no class of {owner}, in {place}" for name, place in strings.items() if cell_type(name) is not int]
        if seen.fraction or wrong:
            raise CorpusError(f"{what} has {seen.fraction or wrong[0]}: {classes}")
    for number, place in numbers:
        if number < -1:
            raise CorpusError(f"{what} has {number}: classes count from 0, -1 stands for no label; see {place}")
        if declared is not None and number >= len(declared):
            raise CorpusError(f"{what} has {number}: {classes}; see {place}")
    for cell in sorted(seen.names.keys() & set(declared or ())) if str not in seen.types else ():  # numbers in CSV
        if declared is not None and declared[int(cell)] != cell:
            raise CorpusError(
                f"{what} has {cell}: the class of that name, or that number? Its classes are {', '.join(declared)}; write names"
            )


def label_remarks(identity: CorpusIdentity, seen: ColumnKind | None) -> dict[str, Any]:
    """Items of Plan.runtime: labels that may not be what they seem."""
    if seen is None or identity.label_names is not None:
        return {}
    lowest, highest = seen.lowest[0], seen.highest[0]
    if task_kind(identity.label_kind).has_classes:
        return {HIGHEST_LABEL: highest} if highest >= MOST_CLASSES else {}
    whole = float in seen.types and seen.fraction is None and identity.task is None
    return {WHOLE_LABELS: [lowest, highest]} if whole and highest > lowest else {}


def trainable(plan: Plan) -> bool:
    """Whether a student can be trained on the labels, or on the logits of a task teacher."""
    return HIGHEST_LABEL not in plan.runtime or plan.task_teacher is not None


def label_notes(plan: Plan) -> tuple[str, ...]:
    """Notes on labels that may not be what they seem."""
    if not trainable(plan):
        return (
            f"the label {plan.runtime[HIGHEST_LABEL]:,} is taken for a class, and textsmooth train takes {MOST_CLASSES:,} classes at most, "
            "unless they have names: give another --label-column, or write the labels as strings",
        )
    if WHOLE_LABELS in plan.runtime:
        low, high = plan.runtime[WHOLE_LABELS]
        return (f"labels are taken for numbers, and all are whole, from {low}.0 to {high}.0: write integers if they are classes",)
    return ()
