"""From a resolved request to a plan: every row hashed, every unit cut; and what tells two plans apart."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from textsmooth.pipeline.plan.resolve import Draft
from textsmooth.pipeline.plan.rows import bad_text, check_text, row_columns
from textsmooth.pipeline.plan.task_teacher import matched
from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.plan import CorpusIdentity, Plan, Unit, unit_ids
from textsmooth.schemas.tasks import MOST_CLASSES, TASKS
from textsmooth.stages.corpus.column_types import ColumnKind
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.reader import rows_sha256, scan

HIGHEST_LABEL = "highest_label"  # of Plan.runtime: found in the corpus, where the rest of it is asked for


def _labels(identity: CorpusIdentity, corpus: Corpus, seen: ColumnKind | None) -> dict[str, Any]:
    """What kind of label the rows hold, from the types and values seen."""
    if seen is None or identity.label_kind == "span":
        return {}
    task = TASKS.get(identity.task or "")
    what, kinds = f"label column {seen.column!r} of {corpus.name}", seen.types
    declared = corpus.class_names.get(seen.column) or (task.label_names if task else None)
    if seen.endless:
        raise CorpusError(f"{what} is infinite in {seen.endless}: a number is needed, or null for no label")
    if kinds <= {int, float} and ((kinds and float in kinds) or (task and task.label_kind == "value")):
        if task and task.label_kind == "class":
            raise CorpusError(f"{what} holds floats, {task.name} has classes: write integers")
        return {"label_kind": "value"}
    if task and task.label_kind == "value":
        raise CorpusError(f"{what} holds {_names(kinds)}, {task.name} has numbers")
    if kinds == {str}:
        if declared is not None and seen.names <= set(declared):
            return {"label_kind": "class", "label_names": declared}
        if task:
            strange = sorted(seen.names - set(declared or ()))[0]
            raise CorpusError(f"{what} has {strange!r}, which is no class of {task.name}: {', '.join(declared or ())}")
        return {"label_kind": "class", "label_names": seen.classes(corpus.name)}
    if kinds <= {int, bool}:
        _check_classes(what, declared, seen)
        return {"label_kind": "class", "label_names": declared or (("false", "true") if kinds == {bool} else None)}
    raise CorpusError(f"{what} holds {_names(kinds)}: numbers or strings are needed, of one kind")


def _too_high(identity: CorpusIdentity, seen: ColumnKind | None) -> dict[str, int]:
    """The highest label, if it is a number that training takes for no class, as an item of Plan.runtime; else nothing."""
    unnamed = seen is not None and identity.label_kind == "class" and identity.label_names is None
    return {HIGHEST_LABEL: seen.highest[0]} if seen is not None and unnamed and seen.highest[0] >= MOST_CLASSES else {}


def label_note(plan: Plan) -> str | None:
    """What to say of a plan whose labels no student can be trained on; None of others."""
    highest = plan.runtime.get(HIGHEST_LABEL)
    if not isinstance(highest, int) or plan.task_teacher is not None:
        return None
    return (
        f"the label {highest:,} is taken for a class, and textsmooth train takes {MOST_CLASSES:,} classes at most, unless they have names: "
        "give another --label-column, or write the labels as strings"
    )


def _check_classes(what: str, declared: tuple[str, ...] | None, seen: ColumnKind) -> None:
    (lowest, low), (highest, high) = seen.lowest, seen.highest
    if lowest < -1:
        raise CorpusError(f"{what} has {lowest}: classes count from 0, -1 stands for no label; see {low}")
    if declared is not None and highest >= len(declared):
        raise CorpusError(
            f"{what} has {highest}: its {len(declared)} classes are 0..{len(declared) - 1} ({', '.join(declared)}); see {high}"
        )
    for cell in sorted(seen.names & set(declared or ())):  # numbers in CSV
        if declared is not None and declared[int(cell)] != cell:
            raise CorpusError(
                f"{what} has {cell}: the class of that name, or that number? Its classes are {', '.join(declared)}; write names"
            )


def _names(kinds: set[type]) -> str:
    return " and ".join(sorted(kind.__name__ for kind in kinds))


def cut(asked: Draft, progress: Callable[[int], None] = lambda rows: None, *, skip_bad_rows: bool = False) -> Plan:
    """Read the corpus once, hash its rows, and cut it into units. `progress` is told the rows read so far.

    skip_bad_rows: rows whose text is not text will be left out; else they are a CorpusError.
    """
    good = 0  # rows with text
    identity = asked.identity
    names = row_columns(identity)
    label = identity.label_column if identity.label_kind != "span" else None
    kinds = {name: ColumnKind(name, label=name == label) for name in ([label] if label else []) + list(identity.keep_columns)}
    units: list[Unit] = []
    done = 0
    for split, files in asked.corpus.splits.items():
        number = row = 0
        for file in files:
            left = None if identity.limit is None else identity.limit - row
            if left == 0:
                break
            for part in scan(file, names, rows=asked.config.rows_per_shard, limit=left, late=asked.late):
                if not skip_bad_rows:
                    check_text(part.rows, identity, file, part.start)
                elif not good:
                    good = part.count - sum(1 for _ in bad_text(part.rows, identity))
                for name, kind in kinds.items():
                    kind.add(part.rows[name], str(file), part.start, cells=file.format.cells_are_text and name not in identity.text_columns)
                place: dict[str, Any] = {"split": split, "number": number, "file": file.name, "row": row, "offset": part.offset}
                content = rows_sha256(part.rows)
                units.append(Unit(**place, start=part.start, stop=part.start + part.count, rows_sha256=content, id=""))
                number, row, done = number + 1, row + part.count, done + part.count
                progress(done)
    if not units:
        raise CorpusError(f"corpus {identity.name} is empty: no rows in {', '.join(f.name for f in asked.corpus.files)}")
    if skip_bad_rows and not good:
        raise CorpusError(f"--skip-bad-rows would leave out all {done:,} rows of {identity.name}: none has text; look at the corpus")
    seen = kinds[label] if label else None
    identity = replace(
        identity,
        **_labels(identity, asked.corpus, seen),
        keep_types=tuple(kinds[name].kept(asked.corpus.name) for name in identity.keep_columns),
    )

    from_features = identity.task is not None or identity.label_column in asked.corpus.class_names
    task_teacher = matched(asked.task_teacher, identity, ordered=from_features)

    ids = unit_ids(teacher=asked.teacher, corpus=identity, config=asked.config, task_teacher=task_teacher)
    for index, unit in enumerate(units):  # only now: labels and types of columns are part of an id
        units[index] = replace(unit, id=ids(unit.split, unit.row, unit.rows_sha256))

    return Plan(
        corpus=identity,
        teacher=asked.teacher,
        config=asked.config,
        versions=asked.versions,
        units=tuple(units),
        runtime={**asked.runtime, **_too_high(identity, seen)},
        source={file.name: file.stat() for file in asked.corpus.files},
        task_teacher=task_teacher,
    )
