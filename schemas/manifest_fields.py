"""What the fields of a manifest have to be, so that whoever reads one can go by them: it may come from a stranger.

A shape is a type, a value (a text or None), a test, a tuple of shapes of which one has to fit, [shape] for a list of them, or a dict:
key -> shape, where a key that ends in ? may be missing, and `str` stands for all other keys. Keys that no shape names are passed over.
"""

import json
import math
import operator
import re
import reprlib
from typing import Any

from textsmooth.schemas.config import GenerationConfig
from textsmooth.schemas.plan import SPLIT

MOST = 1 << 53  # of a count: what JSON readers take as it is, and what can be added up
MOST_IDS = 1 << 31  # ids are read as int32
BINS = 100  # of p_original_bins


def count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


def width(value: Any) -> bool:
    return type(value) is int and 0 < value < MOST_IDS


def number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def share(value: Any) -> bool:
    return number(value) and -0.01 <= value <= 1.01  # sums of float16


def sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def bins(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == BINS and all(map(count, value))


def by_rank(value: Any) -> bool:
    """k as text -> mass."""
    return isinstance(value, dict) and all(re.fullmatch("[1-9][0-9]{0,8}", k) and share(mass) for k, mass in value.items())


def kept_type(value: Any) -> bool:
    """As CorpusIdentity.keep_types."""

    def fits(inner: Any) -> bool:
        if isinstance(inner, list):
            return len(inner) == 1 and fits(inner[0])
        if isinstance(inner, dict):
            return bool(inner) and all(map(fits, inner.values()))
        return inner in ("int64", "float64", "string", "bool")

    try:
        return isinstance(value, str) and fits(json.loads(value) if value[:1] in "[{" else value)
    except (ValueError, RecursionError):
        return False


def split_name(value: Any) -> bool:
    return isinstance(value, str) and SPLIT.fullmatch(value) is not None


TEXT = (str, None)
TEXTS = ([str], None)
CORPUS = {
    "name": str, "files": {str: [str]}, "text_columns": [str], "label_column": TEXT, "label_kind": ("class", "value", "span", None),
    "label_names": TEXTS, "keep_columns": [str], "limit": (count, None), "keep_types?": [kept_type], "license?": TEXT, "revision?": TEXT,
    "task?": TEXT, "about?": {"language?": TEXTS, "task_categories?": TEXTS, str: (str, [str], None)},
}  # fmt: skip
TEACHER = {
    "name": str, "digest": sha256, "tokenizer_digest": sha256, "vocab_digest": sha256, "vocab_size": width, "model_type": str,
    "license?": TEXT, "revision?": TEXT,
}  # fmt: skip
TASK_TEACHER = {
    "name": str, "digest": sha256, "tokenizer_digest": sha256, "kind": ("class", "value", "span"), "width": width, "names?": TEXTS,
    "max_length": count, "order?": ([count], None), "model_type?": str, "license?": TEXT, "revision?": TEXT,
}  # fmt: skip
CONFIG = {
    "topk": width, "mass": share, "temperatures": [number], "context": str, "specials": str, "codec": str, "max_length": width, "long": str,
    "max_batch_tokens": count, "chunk_tokens": count, "rows_per_shard": count, "dtype": str, "device": str, "stride?": count,
}  # fmt: skip
STATISTICS = {
    "rows": count, "tokens": count, "smoothed_tokens": count, "entries": count, "entries_per_token": number, "padding": share,
    "truncated_rows": count, "unknown_tokens?": count, "task_truncated_rows?": count, "windows?": count, "lost_answers?": count,
    "unlabelled_rows?": count, "skipped_rows?": count, "captured_mass": by_rank, "p_original": {"mean": share, str: share, "q05": share,
    "q50": share}, "p_original_bins": bins, "bytes": count, "bytes_per_token": number,
}  # fmt: skip
UNITS = {"units": count, "rows": count}
PREDECESSOR = {
    "dataset": sha256, "corpus": str, "splits": {str: {str: {str: count}}}, "taken_over": UNITS, "run": UNITS,
}  # fmt: skip
SOURCE = {"dataset": sha256, "corpus": CORPUS, "versions?": {str: str}, "splits": {str: {"shards?": count, "rows": width}}}
SHARD = {
    "path": str, "split": split_name, "rows": count, "tokens": count, "entries": count, "bytes": count, "sha256": sha256,
    "windows?": (count, None), "skipped?": count, "row_offset?": count,
}  # fmt: skip
FILE = {"path": str, "bytes": count, "sha256": sha256}
MANIFEST = {
    "dataset": sha256, "plan": sha256, "corpus": CORPUS, "teacher": TEACHER, "config": CONFIG, "token_types": bool,
    "special_ids": {"pad": (count, None), str: (count, None)}, "shards": [SHARD], "files": [FILE], "statistics": STATISTICS,
    "versions": {str: str}, "created": str, "task_teacher?": (TASK_TEACHER, None), "predecessor?": (PREDECESSOR, None),
    "partial_of?": (sha256, None), "sources?": [SOURCE],
}  # fmt: skip


def misfit(value: Any, shape: Any) -> str | None:
    """The first place where a value has not its shape, and what is there; None if there is none."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f" is {reprlib.repr(value)}"
        for key, inner in shape.items():
            if key is str:
                named = shape.keys() | {known.removesuffix("?") for known in shape if known is not str}
                wrong = next((f".{k}{found}" for k, v in value.items() if k not in named and (found := misfit(v, inner))), None)
            elif key in value:
                wrong = (found := misfit(value[key], inner)) and f".{key}{found}"
            elif not key.endswith("?"):
                wrong = f" has no {key}"
            else:
                name = key[:-1]
                wrong = (found := misfit(value[name], inner)) and f".{name}{found}" if name in value else None
            if wrong:
                return wrong
        return None
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            return f" is {reprlib.repr(value)}"
        return next((f"[{n}]{wrong}" for n, inner in enumerate(value) if (wrong := misfit(inner, shape[0]))), None)
    if isinstance(shape, tuple):
        told = [misfit(value, one) for one in shape]
        return None if None in told else told[0]
    fits = isinstance(value, shape) if isinstance(shape, type) else shape(value) if callable(shape) else value == shape
    return None if fits else f" is {reprlib.repr(value)}"


_HEX = re.compile(r"[0-9a-f]{64}")
_USUAL = {key for key in SHARD if not key.endswith("?")}
_COUNTS = operator.itemgetter("rows", "tokens", "entries", "bytes")


def _usual(shard: Any) -> bool:
    """Whether an entry has the shape SHARD, seen at a glance, for there may be very many; if not, `misfit` looks closer."""
    if type(shard) is not dict or shard.keys() != _USUAL:
        return False
    counts = _COUNTS(shard)
    if set(map(type, counts)) != {int} or min(counts) < 0 or max(counts) >= MOST:
        return False
    texts = shard["path"], shard["split"], shard["sha256"]
    return set(map(type, texts)) == {str} and _HEX.fullmatch(texts[2]) is not None and SPLIT.fullmatch(texts[1]) is not None


def check_fields(value: dict[str, Any]) -> None:
    """ValueError, which names the first, for a field of a manifest that is not what the format says."""
    shards = value.get("shards")
    usual = isinstance(shards, list) and all(map(_usual, shards))
    wrong = misfit({**value, "shards": ()} if usual else value, MANIFEST)
    if wrong:
        raise ValueError(wrong.removeprefix(".").strip())
    if not value["shards"]:
        raise ValueError("shards is []")
    config, vocab_size = GenerationConfig.from_json(value["config"]), value["teacher"]["vocab_size"]
    fit = {"config.topk": config.topk - 1, **{f"special_ids.{name}": number for name, number in value["special_ids"].items()}}
    beyond = next((name for name, number in fit.items() if number is not None and number >= vocab_size), None)
    if beyond is not None:
        raise ValueError(f"{beyond} does not fit a vocabulary of {vocab_size:,}")
    for shard in value["shards"]:
        skipped, windows = shard.get("skipped", 0), shard.get("windows")
        if skipped > shard["rows"] or (windows is None) != (config.long != "window"):
            raise ValueError(f"{shard['path']} has {shard['rows']} rows, {skipped} left out, {windows} windows")
        if max(shard["rows"] - skipped, windows or 0, shard["tokens"], shard["entries"]) > shard["bytes"]:
            raise ValueError(f"{shard['path']} has more rows, tokens or entries than {shard['bytes']:,} bytes can hold")
    corpora = [value["corpus"], *(source["corpus"] for source in value.get("sources", ()))]
    if any(len(corpus["keep_columns"]) != len(corpus.get("keep_types", ())) for corpus in corpora):
        raise ValueError("keep_types are not those of keep_columns")
