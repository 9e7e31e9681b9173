"""The manifest: the one file that makes a folder a smoothed dataset. Published last, never changed."""

import re
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from textsmooth.schemas.canonical import digest, fast_digest, lean
from textsmooth.schemas.codecs import parse_codec
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.field_types import Count, Sha256, convert
from textsmooth.schemas.manifest_fields import check_header
from textsmooth.schemas.plan import SPLIT, SplitName
from textsmooth.schemas.version import check_format, format_version

MANIFEST = "manifest.json"
PLAN = "plan.json"
RECEIPTS = "receipts.jsonl"
RECEIPTS_FOLDER = "receipts"
TOKENIZER_FOLDER = "tokenizer"
CARD = "README.md"
QUARANTINE = "quarantine.jsonl"
RUN = "run.json"  # what the last run did: not part of the dataset

SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN = r"\w(?:[\w .,+@=()-]*[\w)])?"  # name of a file: no dot first, nothing that a system reads otherwise
_TOKENIZER = rf"{TOKENIZER_FOLDER}/(?:{_PLAIN}/)*{_PLAIN}"
SHARD = re.compile(rf"({SPLIT.pattern})/[0-9]{{5,}}(?:-[0-9a-f]{{12}})?\.arrow")  # its first group is the split
OWN = re.compile(  # what a dataset, or a run that makes one, has beside manifest.json
    rf"{PLAN}|{RECEIPTS}|{QUARANTINE}|{RUN}|{CARD}|{_TOKENIZER}|{RECEIPTS_FOLDER}/[^/]+\.json|{SHARD.pattern}"
)
# What a manifest may list beside shards: what this version writes, and data and texts at the top that a later one may add.
LISTED = re.compile(rf"{CARD}|{_TOKENIZER}|(?!(?:{MANIFEST}|{RUN})$)[a-z0-9][a-z0-9_-]*\.(?:json|jsonl|md|txt)")
AGAIN = "fetch the dataset again, or make it again with --overwrite"


@dataclass(frozen=True, kw_only=True, slots=True)  # slots: a manifest may have 100,000
class ShardEntry:
    """One shard as the manifest lists it."""

    path: str
    split: SplitName
    rows: Count  # of the corpus
    tokens: Count
    entries: Count
    bytes: Count
    sha256: Sha256
    windows: Count | None = None  # rows of the shard, where long rows were cut into windows
    skipped: Count = 0  # rows of the corpus that are not in the shard: --skip-bad-rows
    row_offset: Count = 0  # added to its column `row`: of a merged dataset, the rows of the split that other sources have before it

    @property
    def samples(self) -> int:
        """Rows of the shard: what a student reads one by one."""
        return self.rows - self.skipped if self.windows is None else self.windows


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Any other file of the dataset."""

    path: str
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a reader needs to know, and can check, of a smoothed dataset."""

    dataset: str  # digest over the plan and the list of shards: the dataset's name for machines
    plan: str  # digest of the plan
    corpus: dict[str, Any]  # CorpusIdentity
    teacher: dict[str, Any]  # TeacherIdentity
    config: dict[str, Any]  # GenerationConfig
    token_types: bool
    special_ids: dict[str, int | None]  # pad, cls, sep, mask, unk
    shards: tuple[ShardEntry, ...]
    files: tuple[FileEntry, ...]
    statistics: dict[str, Any]
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    task_teacher: dict[str, Any] | None = None  # TaskTeacherIdentity
    predecessor: dict[str, Any] | None = None  # of --from-previous; docs/format.md
    partial_of: str | None = None  # digest of the dataset of which this one has only some shards
    sources: tuple[dict[str, Any], ...] = ()  # of a merged dataset: as the plan has them; docs/format.md
    converted: dict[str, Any] | None = None  # the dataset that was converted into this one, its settings, what was dropped

    @staticmethod
    def dataset_digest(plan: str, shards: tuple[ShardEntry, ...]) -> str:
        rows = [[s.path, s.split, s.rows, s.tokens, s.entries, s.sha256] for s in shards]
        return fast_digest({"plan": plan, "shards": rows}, "shards")

    def split(self, name: str) -> tuple[ShardEntry, ...]:
        """The shards of a split in order; UsageError names the splits there are."""
        found = tuple(s for s in self.shards if s.split == name)
        if not found:
            raise UsageError(f"no split {name!r} in this dataset; it has {', '.join(self.splits)}")
        return found

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.split for s in self.shards))

    def origin(self, split: str, row: int) -> tuple[str, int]:
        """The corpus that a row of a split came from, and its number there: in a merged dataset that of a source."""
        for source in self.sources:
            rows = source["splits"].get(split, {"rows": 0})["rows"]
            if row < rows:
                return source["corpus"]["name"], row
            row -= rows
        return self.corpus["name"], row

    def to_json(self) -> dict[str, Any]:
        shards = [lean(shard, ("windows", "skipped", "row_offset")) for shard in self.shards]
        body = {
            "format": format_version(self.corpus.get("label_kind")),
            **lean(replace(self, shards=()), ("task_teacher", "predecessor", "partial_of", "sources", "converted")),
            "shards": shards,
        }
        return {**body, "digest": digest(body)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read back. DatasetError if it is no manifest, of a newer format, or altered since it was written."""
        if not isinstance(value, dict) or "format" not in value or "shards" not in value:
            raise DatasetError(f"{where} is not the manifest of a smoothed dataset")
        corpus = value.get("corpus")
        check_format(value["format"], corpus.get("label_kind") if isinstance(corpus, dict) else None, where)
        body = {k: v for k, v in value.items() if k != "digest"}
        try:
            config = check_header(body)
            shards: tuple[ShardEntry, ...] = convert(body["shards"], tuple[ShardEntry, ...], "shards")
            files: tuple[FileEntry, ...] = convert(body["files"], tuple[FileEntry, ...], "files")
            _check_sizes(shards, config)
            stated = value.get("digest")
            # A later version may give shards a field with a fraction, which the fast way may write in another form.
            altered = fast_digest(body, "shards") != stated and digest(body) != stated
            header = {f.name: body[f.name] for f in fields(cls) if f.name in body}
            manifest = cls(**{**header, "shards": shards, "files": files, "sources": tuple(body.get("sources", ()))})
            altered = altered or manifest.dataset != cls.dataset_digest(manifest.plan, shards)
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise DatasetError(f"{where} is damaged ({error}); {AGAIN}") from None
        _check_paths(shards, files, where)
        if altered:
            raise DatasetError(f"{where} was altered: its digest does not fit; {AGAIN}")
        return manifest


def of_splits(sources: tuple[dict[str, Any], ...], splits: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """The sources of a merged dataset, as one that has only these splits of it tells them."""
    return tuple({**source, "splits": {k: v for k, v in source["splits"].items() if k in splits}} for source in sources)


def _check_sizes(shards: tuple[ShardEntry, ...], config: GenerationConfig) -> None:
    """ValueError for numbers of a shard that contradict each other."""
    windows, most = config.windows, parse_codec(config.codec)[0].most_per_byte
    if not shards:
        raise ValueError("shards is []")
    for shard in shards:
        if shard.skipped > shard.rows or (shard.windows is not None) != windows:
            raise ValueError(f"{shard.path} has {shard.rows} rows, {shard.skipped} left out, {shard.windows} windows")
        if max(shard.rows - shard.skipped, shard.windows or 0, shard.tokens, shard.entries) > most * shard.bytes:
            raise ValueError(f"{shard.path} has more rows, tokens or entries than {shard.bytes:,} bytes can hold")


def _check_paths(shards: tuple[ShardEntry, ...], files: tuple[FileEntry, ...], where: str) -> None:
    """DatasetError for a path that a dataset has not: whoever fetches it writes there."""
    wrong = [shard.path for shard in shards if (found := SHARD.fullmatch(shard.path)) is None or found[1] != shard.split]
    wrong += [file.path for file in files if LISTED.fullmatch(file.path) is None]
    paths = Counter([*(shard.path for shard in shards), *(file.path for file in files)])
    wrong += [path for path in paths if not path.isprintable()]
    if wrong:
        raise DatasetError(f"{where} lists {wrong[0]!r}, which is no file of a smoothed dataset; do not use this dataset")
    twice = next((path for path, times in paths.items() if times > 1), None)
    if twice is not None:
        raise DatasetError(f"{where} lists {twice!r} twice; do not use this dataset")
