"""Smoothed sentences as people can read them: every token with its most probable alternatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import AGAIN, TOKENIZER_FOLDER
from textsmooth.stages.storage import read_manifest
from textsmooth.stages.stream import SmoothedDataset


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
    dataset = SmoothedDataset(folder, split or manifest.splits[0])
    path = folder / TOKENIZER_FOLDER / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise DatasetError(f"{path} is missing or damaged ({error}); {AGAIN}") from None
    if not 0 <= row < len(dataset):
        raise UsageError(f"no row {row} in split {dataset.name}: it has rows 0 to {len(dataset) - 1}")
    block = dataset.batch(np.array([row]))
    soft = block.soft

    def name(token: int) -> str:
        return str(tokenizer.id_to_token(int(token)))

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
    return SmoothedRow(split=dataset.name, row=int(block.row[0]), label=label, tokens=tuple(tokens()))
