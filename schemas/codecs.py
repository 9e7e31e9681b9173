"""The codecs: layouts of soft ids in a shard, by name. No heavy import: lists of options need the names.

To add a codec, write a module like stages/soft_ids/plain_codec.py and list it here.
"""

import math
from dataclasses import dataclass
from typing import Any

from textsmooth.schemas.errors import UsageError

LEAST_BOUND, MOST_BOUND = 1e-5, 0.02  # mean total variation of a lossy codec


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """What can be known of a codec without loading it."""

    module: str  # its `CODEC` is a textsmooth.stages.soft_ids.codec.Codec
    columns: tuple[str, ...]  # columns of a shard that may hold its soft ids, in order
    libraries: tuple[str, ...] = ()  # that it needs, of the extra textsmooth[<codec>]; their versions decide a shard's bytes
    lossy: bool = False  # whether it can be called `<codec>:BOUND`, the largest mean total variation
    compressed: bool = False  # whether the buffers of a shard are compressed one by one, with zstd

    @property
    def most_per_byte(self) -> int:
        """The most rows, tokens or entries that a byte of a shard may hold: nobody's memory is filled by a number in a file."""
        return 100 if self.compressed else 1

    @property
    def nested_lists(self) -> bool:
        """Whether any Arrow reader can use the entries: columns `soft_ids` and `soft_logprobs`, nested lists."""
        return {"soft_ids", "soft_logprobs"} <= set(self.columns)


CODECS = {
    "plain": CodecSpec(
        module="textsmooth.stages.soft_ids.plain_codec",
        columns=("soft_ids", "soft_logprobs", "log_tail", "original_logprob", "log_partition"),
    ),
    "compact": CodecSpec(
        module="textsmooth.stages.soft_ids.compact_codec",
        columns=("soft_table", "soft_streams"),
        libraries=("pcodec",),
        lossy=True,
        compressed=True,
    ),
}


def parse_codec(name: str) -> tuple[CodecSpec, float | None]:
    """The codec that `codec` or `codec:BOUND` names, and the bound. UsageError for another name or bound."""
    codec, colon, text = name.partition(":")
    if codec not in CODECS or (colon and not CODECS[codec].lossy):
        choices = ", ".join(known + ("[:BOUND]" if spec.lossy else "") for known, spec in CODECS.items())
        raise UsageError(f"codec {name!r} is not one of {choices}")
    if not colon:
        return CODECS[codec], None
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not LEAST_BOUND <= bound <= MOST_BOUND:
        raise UsageError(f"codec {name!r}: the bound on the mean total variation must be a number from {LEAST_BOUND:g} to {MOST_BOUND:g}")
    return CODECS[codec], bound


def check_codec(_: str, name: str) -> None:
    """UsageError unless parse_codec knows the name."""
    parse_codec(name)


def canonical_codec(name: Any) -> Any:
    """One spelling of a bound: compact:0.0005 for compact:5e-4. Other values as they are."""
    codec, colon, text = name.partition(":") if isinstance(name, str) else (name, "", "")
    try:
        return f"{codec}:{float(text)!r}" if colon else name
    except ValueError:
        return name
