"""Smoothed sentences as people can read them: every token with its most probable alternatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import TOKENIZER_FOLDER, Manifest
from textsmooth.stages.codec import decode
from textsmooth.stages.shard import ShardReader
from textsmooth.stages.storage import read_manifest


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
    label: str | None
    tokens: tuple[SmoothedToken, ...]


def read_row(folder: Path, row: int, split: str | None = None, alternatives: int = 5) -> SmoothedRow:
    """Row number `row` of a split (the first split if none is named). DatasetError or UsageError in one line."""
    from tokenizers import Tokenizer

    manifest = read_manifest(folder)
    split = split or manifest.splits[0]
    path = folder / TOKENIZER_FOLDER / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise DatasetError(f"{path} is missing or damaged ({error}); generate or fetch the dataset again") from None
    left = row
    for entry in manifest.split(split):
        if 0 <= left < entry.rows:
            return _row(ShardReader(folder / entry.path), left, manifest, split, tokenizer, alternatives)
        left -= entry.rows
    rows = sum(s.rows for s in manifest.split(split))
    raise UsageError(f"no row {row} in split {split}: it has rows 0 to {rows - 1}")


def _row(reader: ShardReader, index: int, manifest: Manifest, split: str, tokenizer: object, alternatives: int) -> SmoothedRow:
    number = 0
    while index >= (size := reader.record_batch(number).num_rows):
        index, number = index - size, number + 1
    block = decode(reader.record_batch(number).slice(index, 1))
    soft = block.soft

    def name(token: int) -> str:
        return str(tokenizer.id_to_token(int(token)))  # type: ignore[attr-defined]

    def tokens() -> Iterator[SmoothedToken]:
        for n, token in enumerate(block.input_ids):
            low, high = soft.offsets[n], min(soft.offsets[n + 1], soft.offsets[n] + alternatives)
            pairs = zip(soft.ids[low:high], np.exp(soft.logprobs[low:high].astype(np.float64)), strict=True)
            found = tuple((name(i), float(p)) for i, p in pairs)
            yield SmoothedToken(token=name(token), p_original=float(np.exp(np.float64(soft.original_logprob[n]))), alternatives=found)

    label = None
    if block.label is not None:
        names, value = manifest.corpus["label_names"], block.label[0]
        label = names[value] if names and 0 <= value < len(names) else f"{value:g}"
    return SmoothedRow(split=split, row=int(block.row[0]), label=label, tokens=tuple(tokens()))
