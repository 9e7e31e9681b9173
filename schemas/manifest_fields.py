"""Types of the fields of a manifest. It may come from a stranger, so every field is checked before any code uses it.

msgspec checks a value against these types; keys that no type names are ignored.
"""

import json
import reprlib
from typing import Annotated, Any

from msgspec import Meta, Struct

from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.field_types import Count, Number, Sha256, Share, Width, convert
from textsmooth.schemas.plan import CorpusIdentity, TaskTeacherIdentity, TeacherIdentity

Rank = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,8}\Z")]  # k, as text
Temperature = Annotated[str, Meta(pattern=r"\A[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?\Z")]
Bins = Annotated[list[Count], Meta(min_length=100, max_length=100)]


class Config(Struct, kw_only=True):
    """As GenerationConfig."""

    topk: Width
    mass: Share
    temperatures: list[Number]
    context: str
    specials: str
    codec: str
    max_length: Width
    long: str
    max_batch_tokens: Count
    chunk_tokens: Count
    rows_per_shard: Count
    dtype: str
    device: str
    stride: Count = 0


class Statistics(Struct, kw_only=True):
    """As UnitStats.summary writes them."""

    rows: Count
    tokens: Count
    smoothed_tokens: Count
    entries: Count
    entries_per_token: Number
    padding: Share
    truncated_rows: Count
    captured_mass: dict[Rank, Share]
    p_original: dict[str, Share]
    captured_mass_by_temperature: dict[Temperature, dict[Rank, Share]] = {}  # stored temperatures other than 1
    reached_mass: Share | None = None  # of the smoothed tokens: those whose entries reach the mass cut-off
    p_original_bins: Bins
    bytes: Count
    bytes_per_token: Number
    unknown_tokens: Count = 0
    task_truncated_rows: Count = 0
    windows: Count = 0
    lost_answers: Count = 0
    unlabelled_rows: Count = 0
    skipped_rows: Count = 0


class UnitsAndRows(Struct):
    units: Count
    rows: Count


class Predecessor(Struct):
    dataset: Sha256
    corpus: str
    splits: dict[str, dict[str, dict[str, Count]]]
    taken_over: UnitsAndRows
    run: UnitsAndRows


class SourceSplit(Struct):
    rows: Width
    shards: Count = 0


class Source(Struct):
    dataset: Sha256
    corpus: CorpusIdentity
    splits: dict[str, SourceSplit]
    versions: dict[str, str] = {}


class Converted(Struct):
    dataset: Sha256
    config: Config
    dropped: list[str]


class Header(Struct, kw_only=True):
    """A manifest without its shards and files: there may be very many, and Manifest converts them itself."""

    dataset: Sha256
    plan: Sha256
    corpus: CorpusIdentity
    teacher: TeacherIdentity
    config: Config
    token_types: bool
    special_ids: dict[str, Count | None]
    statistics: Statistics
    versions: dict[str, str]
    created: str
    task_teacher: TaskTeacherIdentity | None = None
    predecessor: Predecessor | None = None
    partial_of: Sha256 | None = None
    sources: list[Source] = []
    converted: Converted | None = None


def check_header(value: dict[str, Any]) -> GenerationConfig:
    """The configuration of a manifest whose other fields, shards and files apart, are what docs/format.md says; ValueError if not."""
    convert(value, Header)
    for owner, name in ((value["special_ids"], "pad"), *((value["statistics"]["p_original"], q) for q in ("mean", "q05", "q50"))):
        if name not in owner:
            raise ValueError(f"{'special_ids' if name == 'pad' else 'statistics.p_original'} has no {name}")
    config, vocab_size = GenerationConfig.from_json(value["config"]), value["teacher"]["vocab_size"]
    ids = {"config.topk": config.topk - 1, **{f"special_ids.{name}": number for name, number in value["special_ids"].items()}}
    too_large = next((name for name, number in ids.items() if number is not None and number >= vocab_size), None)
    if too_large is not None:
        raise ValueError(f"{too_large} does not fit a vocabulary of {vocab_size:,}")
    for corpus in (value["corpus"], *(source["corpus"] for source in value.get("sources", ()))):
        _check_corpus(corpus)
    return config


def _check_corpus(corpus: dict[str, Any]) -> None:
    keep_types = corpus.get("keep_types", ())
    for number, text in enumerate(keep_types):
        if not _is_column_type(text):
            raise ValueError(f"corpus.keep_types[{number}] is {reprlib.repr(text)}")
    if len(corpus["keep_columns"]) != len(keep_types):
        raise ValueError("keep_types are not those of keep_columns")
    for name in ("language", "task_categories"):
        if isinstance(corpus.get("about", {}).get(name), str):
            raise ValueError(f"corpus.about.{name} is {reprlib.repr(corpus['about'][name])}, not a list")


def _is_column_type(text: str) -> bool:
    """As in CorpusIdentity.keep_types: the name of a type, or JSON of lists and structs of such names."""

    def fits(inner: Any) -> bool:
        if isinstance(inner, list):
            return len(inner) == 1 and fits(inner[0])
        if isinstance(inner, dict):
            return bool(inner) and all(map(fits, inner.values()))
        return inner in ("int64", "float64", "string", "bool")

    try:
        return fits(json.loads(text) if text[:1] in ("[", "{") else text)
    except (ValueError, RecursionError):
        return False
