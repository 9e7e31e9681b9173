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

from textsmooth.pipeline.request import Draft
from textsmooth.schemas.errors import ConflictError, CorpusError
from textsmooth.schemas.plan import CorpusIdentity, Plan, Unit, unit_id
from textsmooth.schemas.version import VERSION
from textsmooth.stages import corpus as corpora
from textsmooth.stages.corpus import Corpus, SourceFile
from textsmooth.stages.device import device_name

DECIDES_BYTES = (
    "schemas/config.py",
    "schemas/plan.py",
    "schemas/shard.py",
    "schemas/soft_ids.py",
    "stages/codec.py",
    "stages/corpus.py",
    "stages/shard.py",
    "stages/sparsify.py",
    "stages/teacher.py",
    "stages/tokenize.py",
    "pipeline/unit.py",
)


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
    libraries = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"textsmooth": VERSION, "code": code_digest(), "device": device_name(device), **found}


KEPT_TYPES = {int: "int64", float: "float64", str: "string", bool: "bool"}


def _labels(column: str | None, corpus: Corpus, kinds: set[type], values: set[str], lowest: int) -> dict[str, Any]:
    """What kind of label the rows hold, from the types and values seen."""
    if column is None:
        return {}
    if kinds == {str}:
        return {"label_kind": "class", "label_names": tuple(sorted(values))}
    if kinds <= {int, bool}:
        if lowest < -1:
            raise CorpusError(f"label column {column!r} of {corpus.name} has {lowest}: classes count from 0, -1 stands for no label")
        return {"label_kind": "class", "label_names": corpus.class_names.get(column)}
    if kinds <= {int, float}:
        return {"label_kind": "value"}
    raise CorpusError(f"label column {column!r} of {corpus.name} holds {_names(kinds)}: numbers or strings are needed, of one kind")


def _kept_type(column: str, corpus: Corpus, kinds: set[type]) -> str:
    if kinds == {int, float}:
        return "float64"
    if len(kinds) > 1 or not kinds <= set(KEPT_TYPES):
        raise CorpusError(f"column {column!r} of {corpus.name} holds {_names(kinds)}: only numbers, strings and booleans can be kept")
    return KEPT_TYPES[next(iter(kinds), str)]


def _names(kinds: set[type]) -> str:
    return " and ".join(sorted(kind.__name__ for kind in kinds))


def cut(asked: Draft, progress: Callable[[int], None] = lambda rows: None) -> Plan:
    """Read the corpus once, hash its rows, and cut it into units. `progress` is told the rows read so far."""
    identity = asked.identity
    names = row_columns(identity)
    kinds: dict[str, set[type]] = {name: set() for name in names}
    values: set[str] = set()  # string labels
    lowest = 0  # integer label
    ranges: list[dict[str, Any]] = []
    done = 0
    for split, files in asked.corpus.splits.items():
        number = row = 0
        for file in files:
            left = None if identity.limit is None else identity.limit - row
            if left == 0:
                break
            for part in corpora.scan(file, names, rows=asked.config.rows_per_shard, limit=left):
                check_text(part.rows, identity, file, part.start)
                for name in names:
                    kinds[name].update(map(type, part.rows[name]))
                if identity.label_column:
                    labels = part.rows[identity.label_column]
                    values.update(v for v in labels if isinstance(v, str))
                    lowest = min([lowest, *(v for v in labels if isinstance(v, int))])
                place = {"split": split, "number": number, "file": file.name, "start": part.start, "stop": part.start + part.count}
                ranges.append({**place, "row": row, "offset": part.offset, "rows_sha256": corpora.rows_sha256(part.rows)})
                number, row, done = number + 1, row + part.count, done + part.count
                progress(done)
    if not ranges:
        raise CorpusError(f"corpus {identity.name} is empty: no rows in {', '.join(f.name for f in asked.corpus.files)}")
    for found in kinds.values():
        found.discard(type(None))
    column = identity.label_column
    identity = replace(
        identity,
        **_labels(column, asked.corpus, kinds[column] if column else set(), values, lowest),
        keep_types=tuple(_kept_type(name, asked.corpus, kinds[name]) for name in identity.keep_columns),
    )

    def unit(place: dict[str, Any]) -> Unit:
        shared = {k: place[k] for k in ("split", "row", "rows_sha256")}
        return Unit(**place, id=unit_id(**shared, teacher=asked.teacher, corpus=identity, config=asked.config))

    return Plan(
        corpus=identity,
        teacher=asked.teacher,
        config=asked.config,
        versions=versions(asked.sources.device),
        units=tuple(unit(place) for place in ranges),
        runtime=asked.runtime,
        source={file.name: file.stat() for file in asked.corpus.files},
    )


def row_columns(identity: CorpusIdentity) -> tuple[str, ...]:
    """The columns read from the corpus, each once."""
    label = (identity.label_column,) if identity.label_column else ()
    return tuple(dict.fromkeys((*identity.text_columns, *label, *identity.keep_columns)))


def check_text(rows: corpora.Rows, identity: CorpusIdentity, file: SourceFile, start: int) -> None:
    """CorpusError for the first row whose text is not text, or with a number that Arrow has no type for."""
    for column in row_columns(identity)[len(identity.text_columns) :]:
        for index, value in enumerate(rows[column]):
            if isinstance(value, int) and value.bit_length() > 63:
                raise CorpusError(f"row {start + index} of {file.path}: column {column!r} is {value}, more than 64 bits hold")
    for column in identity.text_columns:
        for index, value in enumerate(rows[column]):
            if not isinstance(value, str):
                what = "null" if value is None else type(value).__name__
                raise CorpusError(f"row {start + index} of {file.path}: column {column!r} is {what}, not text")


def differences(asked: Draft, plan: Plan, *, finished: bool) -> list[str]:
    """What the plan in a folder has otherwise than what is asked for, each as `name: there …, asked …`. Rows are not compared.

    A finished dataset may have been made with other library versions, on another device.
    """
    open_fields = {"corpus.label_kind", "corpus.label_names", "corpus.keep_types"}  # read from the rows
    mine = {"corpus": asdict(asked.identity), "teacher": asdict(asked.teacher), "config": asked.config.to_json()}
    if not finished:
        mine["versions"] = versions(asked.sources.device)
    theirs = plan.header_json()
    found = []
    for group, values in mine.items():
        for name, value in values.items():
            there = theirs[group].get(name)
            if f"{group}.{name}" not in open_fields and _plain(value) != _plain(there):
                found.append(
                    f"{name if group in ('corpus', 'config') else f'{group} {name}'}: {_short(there)} there, {_short(value)} asked for"
                )
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
    now = cut(asked, progress)
    if [u.id for u in now.units] == [u.id for u in plan.units]:
        return replace(plan, units=now.units)
    changed = next((a.name for a, b in zip(now.units, plan.units, strict=False) if a.id != b.id), "the number of rows")
    raise ConflictError(
        f"the corpus {plan.corpus.name} changed since this folder was planned (first at {changed}; {plan.rows:,} rows then, "
        f"{now.rows:,} now); give another --out, or start again with --overwrite"
    )
