"""The plan of a run: every resolved setting, and the row range of every unit.

It is published once, as `plan.json`. File names in it are relative to the corpus: no path of the machine that made it.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, Self

from msgspec import Meta

from textsmooth.schemas.canonical import canonical_json, digest, lean
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.field_types import Count, Sha256, TaskKind, Width, convert
from textsmooth.schemas.version import check_format, format_version

SPLIT = re.compile(r"\w+(\.\w+)*")
SplitName = Annotated[str, Meta(pattern=rf"\A{SPLIT.pattern}\Z")]


def check_split(name: object) -> None:
    """UsageError unless the name can be that of a folder of the dataset, as the library `datasets` accepts it."""
    if not isinstance(name, str) or not SPLIT.fullmatch(name):
        raise UsageError(f"a split cannot be called {name!r}: letters, digits and _ are needed, and dots between them; rename it")


@dataclass(frozen=True, kw_only=True, slots=True)  # slots: a plan may have a million
class Unit:
    """A fixed range of rows of one input file: the unit of work. Its output is one shard."""

    split: str
    number: int  # position among the units of its split: the shard's leading number
    file: str  # as in CorpusIdentity.files
    start: int  # first row, counted in the file
    stop: int  # one past the last row
    row: int  # first row, counted in the split: the shard's `row` column starts here
    offset: int | None  # byte offset of the first row, for line formats
    rows_sha256: str  # of the rows' content
    id: str

    def __post_init__(self) -> None:
        check_split(self.split)

    @property
    def name(self) -> str:
        return f"{self.split}/{self.number:05d}"

    @property
    def rows(self) -> int:
        return self.stop - self.start


def unit_ids(
    *,
    teacher: "TeacherIdentity",
    corpus: "CorpusIdentity",
    config: GenerationConfig,
    task_teacher: "TaskTeacherIdentity | None" = None,
) -> Callable[[str, int, str], str]:
    """A function from (split, row, rows_sha256) to the id of that unit: 32 hex digits.

    An id stands for everything that decides the bytes of a shard, apart from library versions. It is the digest of one JSON object
    with sorted keys. The text before and after a unit's own values is the same for all units, so it is encoded once, and the hash of
    the beginning is copied.
    """
    start = {
        "columns": corpus.columns_json(),
        "config": {k: v for k, v in config.to_json().items() if k != "rows_per_shard"},  # how rows are grouped is in rows_sha256
        "format": format_version(corpus.label_kind),
    }
    end = {
        **({} if task_teacher is None else {"task_teacher": task_teacher.decides_json()}),
        "teacher": teacher.digest,
        "tokenizer": teacher.tokenizer_digest,
    }
    start_hash = hashlib.sha256(f"{canonical_json(start)[:-1]},".encode())
    end_text = canonical_json(end)[1:]

    def unit_id(split: str, row: int, rows_sha256: str) -> str:
        unit_text = canonical_json({"row": row, "rows": rows_sha256, "split": split})[1:-1]
        hashed = start_hash.copy()
        hashed.update(f"{unit_text},{end_text}".encode())
        return hashed.hexdigest()[:32]

    return unit_id


@dataclass(frozen=True, kw_only=True)
class CorpusIdentity:
    """Which rows were read: the corpus by name, its files, and the columns taken from them."""

    name: str  # `demo`, `glue:sst2`, `reviews.jsonl`: never a machine's path
    files: dict[str, list[str]]  # split -> files, relative to the corpus
    text_columns: tuple[str, ...]  # one text, or a pair
    label_column: str | None
    label_kind: TaskKind | None  # `class` (int64, -1 unlabelled), `value` (float64), or `span` (answers in a context)
    label_names: tuple[str, ...] | None  # of classes, where the corpus has them
    keep_columns: tuple[str, ...]
    limit: Count | None
    keep_types: tuple[str, ...] = ()  # of keep_columns: int64, float64, string, bool; lists and structs of them as JSON
    license: str | None = None
    revision: str | None = None  # commit, of a corpus on the Hub
    task: str | None = None  # of schemas/tasks.py
    about: dict[str, str | list[str] | None] = field(
        default_factory=dict
    )  # language, license … from the corpus's own card: no influence on shards

    def to_json(self) -> dict[str, Any]:
        value = lean(self, ("revision", "task"))
        return value if self.about else {name: inner for name, inner in value.items() if name != "about"}

    def columns_json(self) -> dict[str, Any]:
        return {
            "text": list(self.text_columns),
            "label": self.label_column,
            "label_kind": self.label_kind,
            "label_names": None if self.label_names is None else list(self.label_names),
            "keep": dict(zip(self.keep_columns, self.keep_types, strict=True)),
            **({"keep_order": list(self.keep_columns)} if len(self.keep_columns) > 1 else {}),
            **({"task": self.task} if self.task else {}),
        }


@dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """Which teacher and tokenizer: by content, the name is for people."""

    name: str
    digest: Sha256  # over the weights and the configuration
    tokenizer_digest: Sha256
    vocab_digest: Sha256  # over the token -> id map alone: what a student must share
    vocab_size: Width  # width of the logits
    model_type: str
    license: str | None = None
    revision: str | None = None  # commit, of a teacher on the Hub

    def to_json(self) -> dict[str, Any]:
        return lean(self, ("revision",))


@dataclass(frozen=True, kw_only=True)
class TaskTeacherIdentity:
    """A model fine-tuned on the task, whose logits are written as `teacher_logits`."""

    name: str
    digest: Sha256  # over the weights and the configuration
    tokenizer_digest: Sha256
    kind: TaskKind  # `class`, `value` or `span`: as CorpusIdentity.label_kind
    width: Width  # logits of a row; 2 (start, end) of a token
    names: tuple[str, ...] | None = None  # of the model's classes, in its own order
    max_length: Count  # tokens of a row, specials included, where it has a tokenizer of its own
    order: tuple[Count, ...] | None = None  # class c of the corpus is logit order[c] of the model; None: the same order
    model_type: str = "unknown"
    license: str | None = None
    revision: str | None = None

    def decides_json(self) -> dict[str, Any]:
        """Everything that decides the bytes of `teacher_logits`."""
        order = None if self.order is None else list(self.order)
        shared = {"digest": self.digest, "tokenizer": self.tokenizer_digest, "kind": self.kind, "order": order}
        return {**shared, "max_length": self.max_length}


STRETCH = 65_536  # units in one stretch of plan.json
UNIT_COLUMNS = tuple(f.name for f in fields(Unit) if f.name not in ("split", "file"))


def _stretches(units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    """Units as plan.json has them, by column: one object per stretch of units of the same file, with a list for each field."""
    for (split, file), grouped in groupby(units, key=lambda unit: (unit.split, unit.file)):
        of_file = list(grouped)
        for first in range(0, len(of_file), STRETCH):
            stretch = of_file[first : first + STRETCH]
            yield {"split": split, "file": file, **{name: [getattr(unit, name) for unit in stretch] for name in UNIT_COLUMNS}}


def _units(stretches: list[dict[str, Any]]) -> Iterator[Unit]:
    """The units of a plan.json."""
    for stretch in stretches:
        names = tuple(stretch.keys() - {"split", "file"})
        for values in zip(*(stretch[name] for name in names), strict=True):
            yield Unit(split=stretch["split"], file=stretch["file"], **dict(zip(names, values, strict=True)))


def _file_digest(body: dict[str, Any]) -> str:
    """Digest of a whole plan.json. Each stretch of units enters by its own digest, so the text of a million units is never in memory."""
    return digest({**body, "units": [digest(stretch) for stretch in body["units"]]})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All units and all resolved settings of a run."""

    corpus: CorpusIdentity
    teacher: TeacherIdentity
    config: GenerationConfig
    versions: dict[str, str]  # textsmooth, its code digest, torch, transformers, tokenizers, pyarrow
    units: tuple[Unit, ...]
    runtime: dict[str, Any] = field(default_factory=dict)  # threads …: recorded, no influence on shards
    source: dict[str, list[int]] = field(default_factory=dict)  # file -> [bytes, mtime ns]: the cheap identity
    task_teacher: TaskTeacherIdentity | None = None
    predecessor: dict[str, Any] | None = None  # the dataset whose shards are reused; docs/format.md: no influence on shards
    sources: tuple[dict[str, Any], ...] = ()  # of a merged dataset: the datasets whose units these are; docs/format.md
    converted: dict[str, Any] | None = None  # the dataset whose shards were converted; docs/format.md

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that decides the dataset: not `runtime`, `source` or `corpus.about`."""
        header = self.header_json()
        corpus = {name: value for name, value in header["corpus"].items() if name != "about"}
        return digest({**header, "corpus": corpus, "units": [unit.id for unit in self.units]})

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.corpus.files)

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)

    def row_offsets(self) -> list[int]:
        """For each unit, the number of rows of its split in earlier sources of a merged dataset; 0 in any other dataset."""
        if not self.sources:
            return [0] * len(self.units)
        rows = dict.fromkeys(self.splits, 0)
        offsets = []
        for unit in self.units:
            offsets.append(rows[unit.split] - unit.row)
            rows[unit.split] += unit.rows
        return offsets

    def header_json(self) -> dict[str, Any]:
        """Everything but the units that two plans of the same run have in common."""
        return {
            "format": format_version(self.corpus.label_kind),
            "corpus": self.corpus.to_json(),
            "teacher": self.teacher.to_json(),
            "config": self.config.to_json(),
            "versions": self.versions,
            **({} if self.task_teacher is None else {"task_teacher": asdict(self.task_teacher)}),
            **({"sources": list(self.sources)} if self.sources else {}),
            **({} if self.converted is None else {"converted": self.converted}),
        }

    def to_json(self) -> dict[str, Any]:
        body = {
            **self.header_json(),
            "digest": self.digest,
            "runtime": self.runtime,
            "source": self.source,
            **({} if self.predecessor is None else {"predecessor": self.predecessor}),
            "units": list(_stretches(self.units)),
        }
        return {**body, "file_digest": _file_digest(body)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read back; DatasetError if it is of another format, or altered."""
        if not isinstance(value, dict) or "format" not in value:
            raise DatasetError("plan.json is not the plan of a run")
        try:
            check_format(value["format"], value["corpus"]["label_kind"], "plan.json")
            plan = cls(
                corpus=convert(value["corpus"], CorpusIdentity, "corpus"),
                teacher=convert(value["teacher"], TeacherIdentity, "teacher"),
                config=GenerationConfig.from_json(value["config"]),
                versions=value["versions"],
                units=tuple(_units(value["units"])),
                runtime=value["runtime"],
                source=value["source"],
                task_teacher=convert(value.get("task_teacher"), TaskTeacherIdentity | None, "task_teacher"),
                predecessor=value.get("predecessor"),
                sources=tuple(value.get("sources", ())),
                converted=value.get("converted"),
            )
            altered = plan.digest != value.get("digest")
            altered = altered or value.get("file_digest") != _file_digest({k: v for k, v in value.items() if k != "file_digest"})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DatasetError(f"plan.json is damaged ({error})") from None
        if altered:
            raise DatasetError("plan.json was altered: its digest does not fit")
        return plan
