"""Read smoothed sentences for people: every token with its most probable alternatives."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.pipeline.inspect.row_numbers import is_part, merge_spans, shard_spans
from textsmooth.pipeline.inspect.token_text import TokenNames, fold, open_tokenizer, word_pattern
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import QUARANTINE
from textsmooth.schemas.printable import printable
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.codec import TokenBlock, decode
from textsmooth.stages.soft_ids.target_distribution import target_distribution
from textsmooth.stages.soft_ids.temperature import log_partition, temperature_note

NO_LABEL = "no label"
FLOAT32_MAX = float(np.finfo(np.float32).max)
SPANS = 4  # ranges of rows named in a message


@dataclass(frozen=True, kw_only=True)
class SmoothedToken:
    """One token and its alternatives, most probable first: as the teacher predicts them, or as a student reads them at some lam."""

    token: str
    p_original: float  # of the token itself
    alternatives: tuple[tuple[str, float], ...]  # empty for a plain token; may hold the token itself
    is_original: tuple[bool, ...] = ()  # of each alternative: whether it is the token itself


@dataclass(frozen=True, kw_only=True)
class SmoothedRow:
    """One row of a dataset with its tokens as text."""

    split: str
    row: int
    window: int | None  # None where rows were not cut into windows
    windows: int
    label: str | None
    tokens: tuple[SmoothedToken, ...]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A row, or a window of one, whose text contains a word."""

    sample: int  # position in the dataset, from 0
    places: tuple[tuple[int, int], ...]  # first and last token of each occurrence


class SmoothedRows:
    """The rows of a split as text.

    dataset: path or URI. split: the first one if None. alternatives: number per token. temperature: of the teacher's p.
    lam: smoothing rate; p becomes (1 - lam) * onehot + lam * p, which a student reads; None shows the teacher's p alone.
    The attribute note says in one line by how much probabilities at a temperature that is not stored may be wrong; None if exact.
    Raises DatasetError or UsageError if it is no dataset, or the temperature is not available.
    """

    def __init__(
        self, dataset: Path | str, split: str | None = None, *, alternatives: int = 5, temperature: float = 1.0, lam: float | None = None
    ) -> None:
        folder = open_folder(dataset, reading=True)
        self.manifest = read_manifest(folder)
        self.dataset = SmoothedDataset(dataset, split or self.manifest.splits[0])
        self.names = TokenNames(open_tokenizer(folder, self.manifest))
        self.alternatives = alternatives
        self.how = Smoothing(lam=1.0 if lam is None else lam, temperature=temperature)
        self.lam = lam
        self.note = temperature_note(
            self.how, self.dataset.temperatures, self.dataset.vocab_size, self.dataset.sample_soft_ids, instead=" or one near them"
        )
        self._vocab_size = int(self.manifest.teacher["vocab_size"])
        self._rows = sum(shard.rows for shard in self.dataset.shards)  # with rows that were left out
        self._cut = any(shard.windows is not None for shard in self.dataset.shards)

    def row(self, row: int, window: int = 0) -> SmoothedRow:
        """A row by its number in the corpus, or one of its windows. UsageError if it does not exist."""
        whole = self.manifest.partial_of is None
        first, stop = (0, 0) if whole and not 0 <= row < self._rows else self._samples(row)
        if first == stop:
            raise UsageError(self._absent(row))
        if not 0 <= window < stop - first:
            raise UsageError(f"no window {window} of row {row} in split {self.dataset.name}: its windows are 0 to {stop - first - 1}")
        return self._read(first + window, window, stop - first)

    @property
    def first(self) -> int:
        """The number of the first row in the dataset; 0 if it is empty."""
        return self._row_of(0) if len(self.dataset) else 0

    def sample(self, number: int) -> SmoothedRow:
        """A row or window by its position in the dataset."""
        block = self.dataset[number]
        first, stop = self._samples(int(block.row[0])) if self._cut else (number, number + 1)
        return self._read(number, number - first, stop - first)

    def grep(self, word: str) -> Iterator[Match]:
        """The rows whose text contains the word, or words in a row, in order: whole words, ignoring case and accents.

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
        """The samples of a row of the corpus: first, and last + 1; two equal numbers if the row is not in the dataset."""
        samples = range(len(self.dataset))
        if not self._cut and row in samples and self._row_of(row) == row:
            return row, row + 1
        # row numbers have gaps: rows were left out, or shards are missing
        return bisect_left(samples, row, key=self._row_of), bisect_left(samples, row + 1, key=self._row_of)

    def _row_of(self, sample: int) -> int:
        return int(self.dataset.batch(np.array([sample])).row[0])

    def _absent(self, row: int) -> str:
        """Why a row is not in the dataset."""
        name = self.dataset.name
        if is_part(self.dataset):
            spans = merge_spans(shard_spans(self.dataset) or [])
            has = [f"{start}-{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in spans]
            ranges = f", which has rows {', '.join(has[:SPANS])}{' …' if len(has) > SPANS else ''} of split {name}" if has else ""
            missing = f"row {row} is not in this part of the dataset{ranges}; textsmooth pull adds other shards"
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
        lists, own = self._teacher_probs(block) if self.lam is None else self._student_weights(block)
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
                is_original=tuple(bool(i == token) for i in ids[best]),
            )

    def _teacher_probs(self, block: TokenBlock) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], NDArray[np.float64]]:
        """For each token the ids and p at the temperature, most probable first; and p(original), which may be missing from them."""
        stored = self.dataset.temperatures
        entries = target_distribution(block.soft, self.how, stored, self._vocab_size)
        partition = log_partition(block.soft, self.how, stored, self._vocab_size)
        original = np.exp(block.soft.original_logprob.astype(np.float64) / self.how.temperature - partition)
        ends = np.cumsum(entries.counts)[:-1]
        return list(zip(np.split(entries.ids, ends), np.split(entries.probs, ends), strict=True)), np.minimum(original, 1.0)

    def _student_weights(self, block: TokenBlock) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], NDArray[np.float64]]:
        """For each token the ids and weights that a student reads, largest first, and the weight of the token itself."""
        from textsmooth.stages.dataset.collate import SmoothedCollator  # imports torch, which takes 2 s

        collator = SmoothedCollator(pad_id=0, smoothing=self.how, temperatures=self.dataset.temperatures, vocab_size=self._vocab_size)
        bag = collator(block).soft
        assert bag is not None
        ends = bag.offsets.numpy()[1:-1]
        lists, own = [], []
        for ids, weights in zip(np.split(bag.ids.numpy(), ends), np.split(bag.weights.numpy(), ends), strict=True):
            is_own = ids == ids[0]  # the token itself comes first, and may be among its soft ids again
            own.append(float(weights[is_own].sum()))
            weights = np.where(is_own, own[-1], weights)
            keep = ~is_own | (np.arange(len(ids)) == 0)
            order = np.argsort(-weights[keep], kind="stable")
            lists.append((ids[keep][order], weights[keep][order]))
        return lists, np.array(own)


def label_of(block: TokenBlock, names: list[str] | None, row: int = 0) -> str | None:
    """The label of a row of a block, by name if it has one, safe to show; NO_LABEL for an unlabelled row; None without a label column."""
    if block.label is None:
        return None
    value = block.label[row]
    if np.isnan(value) if block.label.dtype.kind == "f" else value < 0:
        return NO_LABEL
    return class_name(int(value), names) if block.label.dtype.kind in "iu" else _number(float(value))


def class_name(value: int, names: list[str] | None) -> str:
    """The name of a class, safe to show, in quotes if it is blank; its number if it has no name."""
    if not names or not 0 <= value < len(names):
        return str(value)
    name = printable(names[value])
    return name if name.strip() else f"'{name}'"


def _number(value: float) -> str:
    """The shortest text that reads back as the same number, as float32 if the value fits into that."""
    short = f"{value:g}"
    if float(short) == value:
        return short
    whole = repr(value).removesuffix(".0")
    if abs(value) > FLOAT32_MAX or float(np.float32(value)) != value:
        return whole
    return min(whole, str(np.float32(value)), key=len)


def _places(pattern: Any, pieces: list[bytes]) -> Iterator[tuple[int, int]]:
    """First and last token of each occurrence in a row. Folding may change the number of characters, so each is traced to its bytes."""
    ends = np.cumsum([len(piece) for piece in pieces])
    folded, source, start = [], [], 0  # source: first and last byte of each folded character
    for char in b"".join(pieces).decode("utf-8", "surrogateescape"):
        size = len(char.encode("utf-8", "surrogateescape"))
        for part in fold(char):
            folded.append(part)
            source.append((start, start + size - 1))
        start += size
    for match in pattern.finditer("".join(folded)):
        first, last = source[match.start()][0], source[match.end() - 1][1]
        yield int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "right"))
