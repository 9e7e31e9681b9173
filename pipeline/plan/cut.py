"""From a resolved request to a plan: every row hashed, every unit cut; and what tells two plans apart."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from textsmooth.pipeline.plan.resolve import Draft
from textsmooth.pipeline.plan.task_teacher import matched
from textsmooth.pipeline.units.bad_rows import bad_text
from textsmooth.schemas.errors import ConflictError, CorpusError
from textsmooth.schemas.plan import CorpusIdentity, Plan, Unit, unit_ids
from textsmooth.schemas.tasks import ID_COLUMN, MOST_CLASSES, TASKS
from textsmooth.schemas.version import VERSION
from textsmooth.stages.corpus import reader as readers
from textsmooth.stages.corpus.column_types import ColumnKind, typed, typed_labels
from textsmooth.stages.corpus.folder import Corpus
from textsmooth.stages.corpus.source_file import SourceFile

DECIDES_BYTES = (
    "schemas/config.py",
    "schemas/plan.py",
    "schemas/shard.py",
    "schemas/soft_ids.py",
    "schemas/tasks.py",
    "stages/tokens/padding.py",
    "stages/soft_ids/codec.py",
    "stages/tokens/masked_context.py",
    "stages/corpus/csv.py",
    "stages/corpus/column_types.py",
    "stages/corpus/jsonl.py",
    "stages/models/load.py",
    "stages/corpus/reader.py",
    "stages/soft_ids/shard.py",
    "stages/corpus/source_file.py",
    "stages/tokens/answer_spans.py",
    "stages/soft_ids/topk.py",
    "stages/corpus/arrow.py",
    "stages/models/task_teacher.py",
    "stages/models/teacher.py",
    "stages/tokens/tokenize.py",
    "pipeline/units/bad_rows.py",
    "pipeline/units/shard_columns.py",
    "pipeline/units/blame.py",
    "pipeline/plan/cut.py",
    "pipeline/units/rescue.py",
    "pipeline/units/worker.py",
)

HIGHEST_LABEL = "highest_label"  # of Plan.runtime: found in the corpus, where the rest of it is asked for


@cache
def code_digest() -> str:
    """16 hex digits over the source files that decide the bytes of a shard."""
    import textsmooth.pipeline
    import textsmooth.schemas
    import textsmooth.stages

    rooms = {m.__name__.rpartition(".")[2]: Path(m.__path__[0]) for m in (textsmooth.schemas, textsmooth.stages, textsmooth.pipeline)}
    total = hashlib.sha256()
    for name in DECIDES_BYTES:
        room, _, file = name.partition("/")
        total.update(name.encode() + b"\0" + (rooms[room] / file).read_bytes())
    return total.hexdigest()[:16]


def versions(device: str) -> dict[str, str]:
    """Versions of everything that could change a shard's bytes, the device's model among them."""
    from textsmooth.stages.models.device import device_name  # torch, which much of what imports this module never needs

    libraries = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"textsmooth": VERSION, "code": code_digest(), "device": device_name(device), **found}


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
            for part in readers.scan(file, names, rows=asked.config.rows_per_shard, limit=left, late=asked.late):
                if not skip_bad_rows:
                    check_text(part.rows, identity, file, part.start)
                elif not good:
                    good = part.count - sum(1 for _ in bad_text(part.rows, identity))
                for name, kind in kinds.items():
                    kind.add(part.rows[name], str(file), part.start, cells=file.format == "csv" and name not in identity.text_columns)
                place: dict[str, Any] = {"split": split, "number": number, "file": file.name, "row": row, "offset": part.offset}
                content = readers.rows_sha256(part.rows)
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


def row_columns(identity: CorpusIdentity) -> tuple[str, ...]:
    """The columns read from the corpus, each once."""
    label = (identity.label_column,) if identity.label_column else ()
    name = (ID_COLUMN,) if identity.label_kind == "span" else ()
    return tuple(dict.fromkeys((*identity.text_columns, *label, *name, *identity.keep_columns)))


def typed_rows(rows: readers.Rows, identity: CorpusIdentity, file: SourceFile) -> readers.Rows:
    """Rows with labels and kept columns as the plan has them: the cells of a CSV file are strings, whatever they mean."""
    if file.format != "csv":
        return rows
    kept = dict(zip(identity.keep_columns, identity.keep_types, strict=True))
    found = {name: typed(rows[name], kind) for name, kind in kept.items() if name not in identity.text_columns}
    label, kind = identity.label_column, identity.label_kind
    if label is not None and kind in ("class", "value") and label not in (*identity.text_columns, *found):
        found[label] = typed_labels(rows[label], kind, identity.label_names)
    return {**rows, **found}


def check_text(rows: readers.Rows, identity: CorpusIdentity, file: SourceFile, start: int) -> None:
    """CorpusError for the first row whose text is not text; of a span task, whose answer is not in its context."""
    for index, why in bad_text(rows, identity):
        advice = "" if "is needed" in why else "; leave such rows out (--skip-bad-rows), or write them as text"
        raise CorpusError(f"row {start + index} of {file}: {why}{advice}")


def differences(asked: Draft, plan: Plan, *, finished: bool, but: frozenset[str] = frozenset()) -> list[str]:
    """What the plan in a folder has otherwise than what is asked for, each as `name: there …, asked …`. Rows are not compared.

    A finished dataset may have been made with other library versions, on another device. but: what may differ, like `corpus.name`.
    """
    read = {"corpus.label_kind", "corpus.label_names", "corpus.keep_types", "task_teacher.order"}  # from the rows
    open_fields = {*read, "corpus.about", *but}
    mine = {"corpus": asked.identity.to_json(), "teacher": asked.teacher.to_json(), "config": asked.config.to_json()}
    if asked.task_teacher is not None:
        mine["task_teacher"] = asdict(asked.task_teacher)
    if not finished:
        mine["versions"] = asked.versions
    theirs = plan.header_json()
    if ("task_teacher" in mine) != ("task_teacher" in theirs):
        there, here = (group["task_teacher"]["name"] if "task_teacher" in group else "none" for group in (theirs, mine))
        return [f"task teacher: {there} there, {here} asked for"]
    found = []
    for group, values in mine.items():
        for name in {**values, **theirs[group]}:
            value, there = values.get(name), theirs[group].get(name)
            if f"{group}.{name}" not in open_fields and _plain(value) != _plain(there):
                called = name if group in ("corpus", "config") else f"{group.replace('_', ' ')} {name}"
                found.append(f"{called}: {_short(there)} there, {_short(value)} asked for")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = json.dumps(_plain(value), ensure_ascii=False).strip('"')
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text if len(text) <= 60 else text[:57] + "…"


def same_source(asked: Draft, plan: Plan) -> bool:
    """Whether the corpus files still have the sizes and times that the plan recorded."""
    return plan.source == {file.name: file.stat() for file in asked.corpus.files}


def same_rows(asked: Draft, plan: Plan, progress: Callable[[int], None] = lambda rows: None) -> Plan:
    """Read the corpus again: the plan, with its units where they stand in the files now. ConflictError if the rows are others."""
    now = cut(asked, progress, skip_bad_rows=True)  # it was planned with the rows that it has
    if [u.id for u in now.units] == [u.id for u in plan.units]:
        return replace(plan, units=now.units)
    changed = next((a.name for a, b in zip(now.units, plan.units, strict=False) if a.id != b.id), "the number of rows")
    raise ConflictError(
        f"the corpus {plan.corpus.name} changed since this folder was planned (first at {changed}; {plan.rows:,} rows then, "
        f"{now.rows:,} now); give another --out, or start again with --overwrite"
    )
