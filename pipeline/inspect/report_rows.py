"""Choose the sentences of a report, with the alternatives of each token at every stored temperature."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textsmooth.pipeline.inspect.rows import label_of
from textsmooth.pipeline.inspect.stats import sampled_blocks
from textsmooth.pipeline.inspect.token_text import TokenNames
from textsmooth.schemas.printable import printable
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.soft_ids.codec import TokenBlock
from textsmooth.stages.soft_ids.target_distribution import target_distribution
from textsmooth.stages.soft_ids.temperature import log_partition

MOST_TOKENS = 80  # of a sentence
ENTRIES = (8, 6, 5)  # per token, on a page with 1, 2, 3 temperatures
DIGITS = 4  # of a probability


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A row, or its first tokens. tokens: space before, text as shown, data for the page (None for a plain token)."""

    split: str
    row: int
    window: int | None
    label: str | None
    length: int  # tokens of the whole row
    tokens: tuple[tuple[bool, str, list[Any] | None], ...]


@dataclass(kw_only=True)
class Sentences:
    """All sentences of a page. Data of a token: its name, p(original) per temperature, p of each entry per temperature, entry names."""

    temperatures: tuple[float, ...]
    stored: tuple[float, ...]  # all of them
    sentences: list[Sentence] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # numbered
    numbers: dict[int, int] = field(default_factory=dict)  # token -> its number among the names


def choose_sentences(parts: list[SmoothedDataset], names: TokenNames, *, count: int, seed: int) -> Sentences:
    """`count` rows in order, drawn with the seed from the blocks that the figures are counted over; windows if rows were cut."""
    known = {1.0, *(parts[0].temperatures if len(parts[0].shards) and len(parts[0]) else ())}
    stored = tuple(sorted(known))
    shown = sorted(sorted(known, key=lambda t: abs(np.log(t)))[: len(ENTRIES)])
    sentences = Sentences(temperatures=tuple(shown), stored=stored)
    samples = [(part, sample) for part, start, stop in sampled_blocks(parts, seed).spans() for sample in range(start, stop)]
    chosen = np.random.default_rng(seed).permutation(len(samples))
    for at in _with_tokens(samples, chosen, count):
        part, sample = samples[at]
        sentences.sentences.append(_sentence(part, part[sample], names, sentences))
    return sentences


def _with_tokens(samples: list[tuple[SmoothedDataset, int]], chosen: Any, count: int) -> list[int]:
    """The first `count` of the chosen that have soft ids, in the order of the dataset."""
    kept: list[int] = []
    for at in chosen.tolist():
        if len(kept) == count:
            break
        part, sample = samples[at]
        if len(part[sample].soft.ids):
            kept.append(at)
    return sorted(kept)


def _sentence(part: SmoothedDataset, block: TokenBlock, names: TokenNames, sentences: Sentences) -> Sentence:
    ids = block.input_ids.tolist()[:MOST_TOKENS]
    data = _data(part, block, names, sentences)
    spelled = names.spelled(ids)
    tokens = tuple((space, text, next(data)) for space, text in _tidied(spelled, names.apart))
    return Sentence(
        split=printable(part.name),
        row=int(block.row[0]),
        window=None if block.window is None else int(block.window[0]),
        label=label_of(block, part.manifest.corpus["label_names"]),
        length=len(block.input_ids),
        tokens=tokens,
    )


def _data(part: SmoothedDataset, block: TokenBlock, names: TokenNames, sentences: Sentences) -> Iterator[list[Any] | None]:
    most = ENTRIES[len(sentences.temperatures) - 1]
    vocab_size = int(part.manifest.teacher["vocab_size"])
    probs, originals = [], []
    for temperature in sentences.temperatures:
        how = Smoothing(lam=1.0, temperature=temperature)
        probs.append(target_distribution(block.soft, how, part.temperatures, vocab_size).probs)
        partition = log_partition(block.soft, how, part.temperatures, vocab_size)
        originals.append(np.minimum(np.exp(block.soft.original_logprob.astype(np.float64) / temperature - partition), 1.0))

    def number(token: int) -> int:
        if token not in sentences.numbers:
            sentences.numbers[token] = len(sentences.names)
            sentences.names.append(names.name(token))
        return sentences.numbers[token]

    for n, token in enumerate(block.input_ids.tolist()):
        start, stop = int(block.soft.offsets[n]), int(block.soft.offsets[n + 1])
        if start == stop:
            yield None
            continue
        entries = block.soft.ids[start:stop]
        shown = [*range(min(len(entries), most)), *(i for i in np.flatnonzero(entries == token).tolist() if i >= most)]
        yield [
            number(token),
            [_short(own[n]) for own in originals],
            [[_short(p[start + i]) for i in shown] for p in probs],
            [number(int(entries[i])) for i in shown],
        ]


def _short(p: float) -> float:
    value = round(float(p), DIGITS)
    return int(value) if value in (0.0, 1.0) else value


_CLOSING, _OPENING, _APOSTROPHES = set(".,!?;:%)]}”…"), set("([{“‘"), set("'’")
_SHORT_FORMS = {"s", "t", "re", "ve", "ll", "d", "m"}


def _tidied(spelled: list[tuple[bool, str]], apart: bool) -> Iterator[tuple[bool, str]]:
    """Attach punctuation to its word where the tokenizer does not record spaces."""
    texts = ["", *(text for _, text in spelled), ""]
    short = False  # the token before was the apostrophe of a short form
    for (space, text), before, after in zip(spelled, texts, texts[2:], strict=False):
        joined = short or text in _CLOSING or before in _OPENING
        short = text in _APOSTROPHES and before.isalpha() and after in _SHORT_FORMS
        yield space and not (apart and (joined or short)), text
