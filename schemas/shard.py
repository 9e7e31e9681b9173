"""The columns of a shard and the metadata that makes it self-describing. docs/format.md is the specification."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.soft_ids import id_dtype
from textsmooth.schemas.version import FORMAT_VERSION

METADATA_KEY = b"textsmooth"
ROWS_PER_RECORD_BATCH = 256
COLUMNS = (
    "row",
    "window",
    "input_ids",
    "token_type_ids",
    "soft_ids",
    "soft_logprobs",
    "log_tail",
    "original_logprob",
    "log_partition",
    "label",
    "example_id",
    "offsets",
    "context",
    "answers",
    "start_positions",
    "end_positions",
    "teacher_logits",
)
PLACE = pa.list_(pa.int32(), 2)
ANSWERS = pa.struct([pa.field("text", pa.list_(pa.string())), pa.field("answer_start", pa.list_(pa.int32()))])


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
    def promised(cls, config: GenerationConfig, teacher: dict[str, Any], *, split: str, unit: str) -> Self:
        """Of a shard that is made with this configuration. teacher: TeacherIdentity as JSON."""
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
        )

    @classmethod
    def of(cls, schema: pa.Schema, name: str) -> Self:
        """Read from a shard's schema. DatasetError if the file is no shard, or of a newer format."""
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            raise DatasetError(f"{name} is an Arrow file but not a shard of a smoothed dataset")
        try:
            value: dict[str, Any] = json.loads(raw)
            if value["format"] != FORMAT_VERSION:
                raise DatasetError(
                    f"{name} has format {value['format']}, this version of textsmooth reads {FORMAT_VERSION}; update textsmooth"
                )
            return cls(**{**value, "temperatures": tuple(value["temperatures"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{name} has damaged metadata ({error}); generate or fetch the dataset again") from None


def shard_schema(
    meta: ShardMeta,
    *,
    token_types: bool,
    label_kind: str | None = None,
    windows: bool = False,
    logits: int | None = None,
    keep: tuple[pa.Field, ...] = (),
) -> pa.Schema:
    """The Arrow schema of codec `plain`.

    token_types: the tokenizer makes them. label_kind: `class` (int64), `value` (float64), `span` (answers) or None. windows: long rows
    are cut into several. logits: how many a task teacher gives per row; per token for `span`. keep: columns carried through.
    """
    ids = pa.from_numpy_dtype(id_dtype(meta.vocab_size))
    half = pa.float16()
    columns = [pa.field("row", pa.int64(), nullable=False)]
    if windows:
        columns.append(pa.field("window", pa.int32(), nullable=False))
    columns.append(pa.field("input_ids", pa.list_(ids)))
    if token_types:
        columns.append(pa.field("token_type_ids", pa.list_(pa.uint8())))
    columns += [
        pa.field("soft_ids", pa.list_(pa.list_(ids))),
        pa.field("soft_logprobs", pa.list_(pa.list_(half))),
        pa.field("log_tail", pa.list_(half)),
        pa.field("original_logprob", pa.list_(half)),
    ]
    if meta.temperatures:
        columns.append(pa.field("log_partition", pa.list_(pa.list_(pa.float32(), len(meta.temperatures)))))
    if label_kind == "span":
        columns += [
            pa.field("example_id", pa.string()),
            pa.field("offsets", pa.list_(PLACE)),
            pa.field("context", pa.string()),
            pa.field("answers", ANSWERS),
            pa.field("start_positions", pa.int32()),
            pa.field("end_positions", pa.int32()),
        ]
    elif label_kind is not None:
        columns.append(pa.field("label", pa.int64() if label_kind == "class" else pa.float64()))
    if logits is not None:
        single = pa.list_(pa.float32(), logits)
        columns.append(pa.field("teacher_logits", pa.list_(single) if label_kind == "span" else single))
    columns += keep
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps(asdict(meta), sort_keys=True).encode()})
