"""Smoothed sentences as people can read them: every token with its most probable alternatives."""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textsmooth.schemas.errors import DatasetError, StorageError, UsageError
from textsmooth.schemas.manifest import AGAIN, QUARANTINE, TOKENIZER_FOLDER
from textsmooth.stages.folder import open_folder, read_manifest
from textsmooth.stages.stream import SmoothedDataset

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"  # stands for a space inside a token


@dataclass(frozen=True, kw_only=True)
class SmoothedToken:
    """One token and its alternatives, most probable first."""

    token: str
    p_original: float
    alternatives: tuple[tuple[str, float], ...]  # empty for a token left plain


@dataclass(frozen=True, kw_only=True)
class SmoothedRow:
    """One row of a dataset, readable."""

    split: str
    row: int
    window: int | None  # None where rows were not cut into windows
    windows: int
    label: str | None
    tokens: tuple[SmoothedToken, ...]


def readable(tokenizer: "Tokenizer") -> Callable[[int], str]:
    """What turns a token's id into text that shows on one line.

    Byte-level tokens are decoded: SPACE for spaces, <0xE2> for bytes that are only part of a character. Control characters are escaped.
    """
    parts = json.loads(tokenizer.to_str())
    byte_level = any(_is_byte_level(parts[name]) for name in ("normalizer", "pre_tokenizer", "decoder"))
    added = tokenizer.get_added_tokens_decoder()
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that byte-level tokenizers write as themselves
    others = [byte for byte in range(256) if byte not in plain]
    bytes_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}

    def name(token: int) -> str:
        text = str(tokenizer.id_to_token(token))
        if byte_level and token not in added and all(char in bytes_of for char in text):
            text = bytes(bytes_of[char] for char in text).decode("utf-8", "surrogateescape").replace(" ", SPACE)
        return "".join(map(_shown, text))

    return name


def _is_byte_level(part: object) -> bool:
    if isinstance(part, dict):
        return part.get("type") == "ByteLevel" or any(map(_is_byte_level, part.values()))
    return isinstance(part, list) and any(map(_is_byte_level, part))


def _shown(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8
        return f"<0x{ord(char) - 0xDC00:02X}>"
    return char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()


def read_row(place: Path | str, row: int, split: str | None = None, alternatives: int = 5, window: int = 0) -> SmoothedRow:
    """A row of the corpus, in a split (the first if none is named), and one of its windows. DatasetError or UsageError in one line.

    place: path or URI of the dataset.
    """
    from tokenizers import Tokenizer

    folder = open_folder(place, reading=True)
    manifest = read_manifest(folder)
    dataset = SmoothedDataset(place, split or manifest.splits[0])
    name_there = f"{TOKENIZER_FOLDER}/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(folder.read(name_there).decode())
    except StorageError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise DatasetError(f"{folder.at(name_there)} is missing or damaged ({error}); {AGAIN}") from None
    rows = sum(shard.rows for shard in dataset.shards)
    if not 0 <= row < rows:
        raise UsageError(f"no row {row} in split {dataset.name}: it has rows 0 to {rows - 1}")
    cut = any(shard.windows is not None for shard in dataset.shards)
    other = cut or any(shard.skipped for shard in dataset.shards)
    first, stop = (_sample(dataset, row), _sample(dataset, row + 1)) if other else (row, row + 1)
    if first == stop:
        raise UsageError(f"row {row} of split {dataset.name} was left out of the dataset: {QUARANTINE} says why")
    if not 0 <= window < stop - first:
        raise UsageError(f"no window {window} of row {row} in split {dataset.name}: its windows are 0 to {stop - first - 1}")
    block = dataset.batch(np.array([first + window]))
    soft = block.soft

    name = readable(tokenizer)

    def tokens() -> Iterator[SmoothedToken]:
        for n, token in enumerate(block.input_ids):
            low, high = soft.offsets[n], min(soft.offsets[n + 1], soft.offsets[n] + alternatives)
            pairs = zip(soft.ids[low:high], np.exp(soft.logprobs[low:high].astype(np.float64)), strict=True)
            found = tuple((name(int(i)), float(p)) for i, p in pairs)
            yield SmoothedToken(token=name(int(token)), p_original=float(np.exp(np.float64(soft.original_logprob[n]))), alternatives=found)

    label = None
    if block.label is not None:
        names, value = manifest.corpus["label_names"], block.label[0]
        label = names[value] if names and 0 <= value < len(names) else f"{value:g}"
    return SmoothedRow(
        split=dataset.name,
        row=int(block.row[0]),
        window=window if cut else None,
        windows=stop - first,
        label=label,
        tokens=tuple(tokens()),
    )


def _sample(dataset: SmoothedDataset, row: int) -> int:
    """The first sample of a dataset that is of this row of the corpus, or of a later one."""
    return bisect_left(range(len(dataset)), row, key=lambda sample: int(dataset.batch(np.array([sample])).row[0]))
