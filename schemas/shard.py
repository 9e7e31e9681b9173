"""The columns of a shard and the metadata that makes it self-describing. docs/format.md is the specification."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from textsmooth.schemas.codecs import CODECS, parse_codec
from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.version import FORMAT_VERSION, check_format, format_version

METADATA_KEY = b"textsmooth"
ROWS_PER_RECORD_BATCH = 256
_BEFORE = ("row", "window", "input_ids", "token_type_ids")
_AFTER = ("label", "example_id", "offsets", "context", "context_start", "answers", "start_positions", "end_positions", "teacher_logits")
PLACE = pa.list_(pa.int32(), 2)
ANSWERS = pa.struct([pa.field("text", pa.list_(pa.string())), pa.field("answer_start", pa.list_(pa.int32()))])


def columns_of(codec: str) -> tuple[str, ...]:
    """The columns that a shard of this codec may have, in order; kept columns of the corpus follow."""
    return (*_BEFORE, *parse_codec(codec)[0].columns, *_AFTER)


def reserved_columns() -> set[str]:
    """Names of shard columns in any codec: a kept column cannot be called so."""
    return {name for codec in CODECS for name in columns_of(codec)}


@dataclass(frozen=True, kw_only=True)
class ShardMeta:
    """What a reader must know of a shard, carried in the Arrow schema's metadata."""

    codec: str
    topk: int
    mass: float
    temperatures: tuple[float, ...]  # those with a stored log-partition: all but 1
    context: str
    vocab_size: int
    teacher: str  # digests
    tokenizer: str
    vocab: str
    split: str
    unit: str
    format: int = FORMAT_VERSION

    @classmethod
    def promised(cls, config: GenerationConfig, teacher: dict[str, Any], *, label_kind: str | None, split: str, unit: str) -> Self:
        """Of a shard that is made with this configuration. teacher: TeacherIdentity as JSON. label_kind: as CorpusIdentity.label_kind."""
        return cls(
            codec=config.codec,
            topk=config.topk,
            mass=config.mass,
            temperatures=config.extra_temperatures,
            context=config.context,
            vocab_size=teacher["vocab_size"],
            teacher=teacher["digest"],
            tokenizer=teacher["tokenizer_digest"],
            vocab=teacher["vocab_digest"],
            split=split,
            unit=unit,
            format=format_version(label_kind),
        )

    @classmethod
    def of(cls, schema: pa.Schema, name: str) -> Self:
        """Read from a shard's schema. DatasetError if the file is no shard, or of a newer format."""
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            raise DatasetError(f"{name} is an Arrow file but not a shard of a smoothed dataset")
        try:
            value: dict[str, Any] = json.loads(raw)
            check_format(value["format"], "span" if "start_positions" in schema.names else None, name)
            try:
                parse_codec(value["codec"])
            except UsageError:
                raise DatasetError(
                    f"{name} has codec {value['codec']!r}, this version of textsmooth reads {', '.join(CODECS)}; update textsmooth"
                ) from None
            return cls(**{**value, "temperatures": tuple(value["temperatures"])})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DatasetError(f"{name} has damaged metadata ({error}); generate or fetch the dataset again") from None

    def to_arrow(self) -> dict[bytes, bytes]:
        """The metadata of an Arrow schema."""
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True).encode()}
