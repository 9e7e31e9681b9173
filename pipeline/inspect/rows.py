"""Smoothed sentences as people can read them: every token with its most probable alternatives."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.row_numbers import is_part, shard_spans, stretches
from textsmooth.pipeline.inspect.token_text import SPACE, TokenNames, fold, open_tokenizer, readable, word_pattern
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import QUARANTINE
from textsmooth.schemas.printable import printable
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.codec import TokenBlock, decode
from textsmooth.stages.soft_ids.target_distribution import cut
from textsmooth.stages.soft_ids.temperature import log_partition, temperature_note

NO_LABEL = "no label"
FLOAT32_MAX = float(np.finfo(np.float32).max)
SPANS = 4  # stretches of rows that are told of a part

__all__ = ["NO_LABEL", "SPACE", "SmoothedRow", "SmoothedRows", "SmoothedToken", "read_row", "readable"]


@dataclass(frozen=True, kw_only=True)
class SmoothedToken:
    """One token and its alternatives, most probable first: what the teacher says, or what a student reads at some lam."""

    token: str
    p_original: float  # of the token itself
    alternatives: tuple[tuple[str, float], ...]  # empty for a token left plain; may hold the token itself
    elsewhere: float = 0.0  # what is left for all other tokens of the vocabulary
    is_original: tuple[bool, ...] = ()  # of each alternative: whether it is the token itself


@dataclass(frozen=True, kw_only=True)
class SmoothedRow:
    """One row of a dataset, readable."""

    split: str
    row: int
    window: int | None  # None where rows were not cut into windows
    windows: int
    label: str | None
    tokens: tuple[SmoothedToken, ...]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A row (or a window of one) whose text holds a word."""

    sample: int  # number in the dataset, from 0
    places: tuple[tuple[int, int], ...]  # first and last token of each occurrence


class SmoothedRows:
    """The rows of a split, readable. A context of one dataset: opened once, asked as often as you like.

    place: path or URI of the dataset. split: the first if none is named. alternatives: how many are told per token. temperature: of the
    teacher's p. lam: smoothing rate; p becomes (1 - lam) * onehot + lam * p, what a student reads; None: the teacher's p alone.
    note: how far probabilities at a temperature that is not stored may be off, in one line; None if they are exact.
    DatasetError or UsageError, in one line, if it is no dataset, or the temperature cannot be had.
    """

    def __init__(
        self, place: Path | str, split: str | None = None, *, alternatives: int = 5, temperature: float = 1.0, lam: float | None = None
    ) -> None:
        folder = open_folder(place, reading=True)
        self.manifest = read_manifest(folder)
        self.dataset = SmoothedDataset(place, split or self.manifest.splits[0])
        self.names = TokenNames(open_tokenizer(folder, self.manifest))
        self.alternatives = alternatives
        self.how = Smoothing(lam=1.0 if lam is None else lam, temperature=temperature)
        self.lam = lam
        self.note = temperature_note(
            self.how, self.dataset.temperatures, self.dataset.vocab_size, self.dataset.sample_soft_ids, instead=" or one near them"
        )
        self._vocab_size = int(self.manifest.teacher["vocab_size"])
        self._rows = sum(shard.rows for shard in self.dataset.shards)  # those that were left out, too
        self._cut = any(shard.windows is not None for shard in self.dataset.shards)

    def row(self, row: int, window: int = 0) -> SmoothedRow:
        """A row of the corpus by its number, and one of its windows. UsageError if there is none."""
        whole = self.manifest.partial_of is None
        first, stop = (0, 0) if whole and not 0 <= row < self._rows else self._samples(row)
        if first == stop:
            raise UsageError(self._absent(row))
        if not 0 <= window < stop - first:
            raise UsageError(f"no window {window} of row {row} in split {self.dataset.name}: its windows are 0 to {stop - first - 1}")
        return self._read(first + window, window, stop - first)

    @property
    def first(self) -> int:
        """The number of the first row that is there; 0 if none is."""
        return self._row_of(0) if len(self.dataset) else 0

    def sample(self, number: int) -> SmoothedRow:
        """A row of the dataset, or a window of one, by its number among them."""
        block = self.dataset[number]
        first, stop = self._samples(int(block.row[0])) if self._cut else (number, number + 1)
        return self._read(number, number - first, stop - first)

    def grep(self, word: str) -> Iterator[Match]:
        """The rows whose text holds the word, or words in a row, in order: whole words, whatever their case and accents.

        Reads the tokens of the whole split. UsageError for a blank word.
        """
        if not word.strip():
            raise UsageError("the word to look for is blank")
        pattern, number = word_pattern(word), 0
        for batch in self.dataset.record_batches():
            block = decode(batch)
            ids = block.input_ids.tolist()
            for start, stop in pairwise(block.row_offsets.tolist()):
                pieces = self.names.pieces_of(ids[start:stop])
                if pattern.search(fold(b"".join(pieces).decode("utf-8", "surrogateescape"))):
                    yield Match(sample=number, places=tuple(_places(pattern, pieces)))
                number += 1

    def _samples(self, row: int) -> tuple[int, int]:
        """The samples of a row of the corpus: first, and last + 1; the same where it is not there."""
        samples = range(len(self.dataset))
        if not self._cut and row in samples and self._row_of(row) == row:
            return row, row + 1
        # numbers of rows have gaps: some were left out, or the shards they are in are not there
        return bisect_left(samples, row, key=self._row_of), bisect_left(samples, row + 1, key=self._row_of)

    def _row_of(self, sample: int) -> int:
        return int(self.dataset.batch(np.array([sample])).row[0])

    def _absent(self, row: int) -> str:
        """Why a row is not there."""
        name = self.dataset.name
        if is_part(self.dataset):
            spans = stretches(shard_spans(self.dataset) or [])
            has = [f"{start}-{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in spans]
            told = f", which has rows {', '.join(has[:SPANS])}{' …' if len(has) > SPANS else ''} of split {name}" if has else ""
            missing = f"row {row} is not in this part of the dataset{told}; textsmooth pull adds others"
        else:
            spans = [(0, self._rows)]
            missing = f"no row {row} in split {name}: it has rows 0 to {self._rows - 1}"
        if any(start <= row < stop for start, stop in spans):
            return f"row {row} of split {name} was left out of the dataset: {QUARANTINE} says why"
        return missing

    def _read(self, number: int, window: int, windows: int) -> SmoothedRow:
        block = self.dataset.batch(np.array([number]))
        return SmoothedRow(
            split=self.dataset.name,
            row=int(block.row[0]),
            window=window if self._cut else None,
            windows=windows,
            label=label_of(block, self.manifest.corpus["label_names"]),
            tokens=tuple(self._tokens(block)),
        )

    def _tokens(self, block: TokenBlock) -> Iterator[SmoothedToken]:
        if not len(block.input_ids):
            return
        lists, own = self._taught(block) if self.lam is None else self._mixed(block)
        for token, (ids, weights), original, entries in zip(block.input_ids, lists, own, np.diff(block.soft.offsets), strict=True):
            name = self.names.name(int(token))
            if not entries:
                yield SmoothedToken(token=name, p_original=1.0, alternatives=())
                continue
            best = slice(0, self.alternatives)
            yield SmoothedToken(
                token=name,
                p_original=float(original),
                alternatives=tuple((self.names.name(int(i)), float(p)) for i, p in zip(ids[best], weights[best], strict=True)),
                elsewhere=max(0.0, 1.0 - float(weights[best].sum())),
                is_original=tuple(bool(i == token) for i in ids[best]),
            )

    def _taught(self, block: TokenBlock) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], NDArray[np.float64]]:
        """For each token the ids and p at the temperature, most probable first; and p(original), which need not be among them."""
        stored = self.dataset.temperatures
        entries = cut(block.soft, self.how, stored, self._vocab_size)
        partition = log_partition(block.soft, self.how, stored, self._vocab_size)
        original = np.exp(block.soft.original_logprob.astype(np.float64) / self.how.temperature - partition)
        ends = np.cumsum(entries.counts)[:-1]
        return list(zip(np.split(entries.ids, ends), np.split(entries.probs, ends), strict=True)), np.minimum(original, 1.0)

    def _mixed(self, block: TokenBlock) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], NDArray[np.float64]]:
        """For each token the ids and weights that a student reads, largest first, and the weight of the token itself."""
        collator = SmoothedCollator(pad_id=0, smoothing=self.how, temperatures=self.dataset.temperatures, vocab_size=self._vocab_size)
        bag = collator(block).soft
        assert bag is not None
        ends = bag.offsets.numpy()[1:-1]
        lists, own = [], []
        for ids, weights in zip(np.split(bag.ids.numpy(), ends), np.split(bag.weights.numpy(), ends), strict=True):
            mine = ids == ids[0]  # the token itself comes first, and may be among its soft ids again
            own.append(float(weights[mine].sum()))
            weights = np.where(mine, own[-1], weights)
            keep = ~mine | (np.arange(len(ids)) == 0)
            order = np.argsort(-weights[keep], kind="stable")
            lists.append((ids[keep][order], weights[keep][order]))
        return lists, np.array(own)


def read_row(
    place: Path | str,
    row: int,
    split: str | None = None,
    alternatives: int = 5,
    window: int = 0,
    *,
    temperature: float = 1.0,
    lam: float | None = None,
) -> SmoothedRow:
    """A row of the corpus, in a split (the first if none is named), and one of its windows. DatasetError or UsageError in one line.

    The other arguments are those of SmoothedRows.
    """
    return SmoothedRows(place, split, alternatives=alternatives, temperature=temperature, lam=lam).row(row, window)


def label_of(block: TokenBlock, names: list[str] | None, row: int = 0) -> str | None:
    """The label of a row of a block, by name if it has one, safe to show; NO_LABEL for a row without; None without a label column."""
    if block.label is None:
        return None
    value = block.label[row]
    if np.isnan(value) if block.label.dtype.kind == "f" else value < 0:
        return NO_LABEL
    return class_name(int(value), names) if block.label.dtype.kind in "iu" else _number(float(value))


def class_name(value: int, names: list[str] | None) -> str:
    """What a class is called, safe to show, in quotes if nothing would be seen of it; its number if it has no name."""
    if not names or not 0 <= value < len(names):
        return str(value)
    name = printable(names[value])
    return name if name.strip() else f"'{name}'"


def _number(value: float) -> str:
    """As short as can be without being another number; of one that was stored in 32 bits, another one of these."""
    short = f"{value:g}"
    if float(short) == value:
        return short
    whole = repr(value).removesuffix(".0")
    if abs(value) > FLOAT32_MAX or float(np.float32(value)) != value:
        return whole
    return min(whole, str(np.float32(value)), key=len)


def _places(pattern: Any, pieces: list[bytes]) -> Iterator[tuple[int, int]]:
    """First and last token of each occurrence in a row. Folding may change how many characters there are: they are followed one by one."""
    ends = np.cumsum([len(piece) for piece in pieces])
    folded, source, place = [], [], 0  # source: the first and the last byte that each folded character came from
    for char in b"".join(pieces).decode("utf-8", "surrogateescape"):
        size = len(char.encode("utf-8", "surrogateescape"))
        for part in fold(char):
            folded.append(part)
            source.append((place, place + size - 1))
        place += size
    for found in pattern.finditer("".join(folded)):
        first, last = source[found.start()][0], source[found.end() - 1][1]
        yield int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "right"))
