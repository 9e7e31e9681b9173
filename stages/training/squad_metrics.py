"""Answers of span tasks (SQuAD): select them from start and end logits, score them against those of the corpus.

Scores follow the official scripts of SQuAD v1.1 (arXiv 1606.05250) and v2.0 (arXiv 1806.03822), as shares from 0 to 1.
Legend: L tokens of a window.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textsmooth.stages.tokens.answer_spans import answer_text

MAX_ANSWER_TOKENS = 30
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """The text in lower case, without punctuation, articles and repeated spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 if the prediction equals one of the answers, both normalized; without answers, if it is empty."""
    return _best(lambda gold: float(normalized(prediction) == normalized(gold)), golds)


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 of the words that prediction and answer share, for the best answer; 1 or 0 where one of the two is empty."""
    return _best(lambda gold: _f1(normalized(prediction).split(), normalized(gold).split()), golds)


def _best(score: Callable[[str], float], golds: Sequence[str]) -> float:
    return max(map(score, [gold for gold in golds if normalized(gold)] or [""]))


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A student's answer to a question, from one window or from several."""

    text: str  # the best span of context tokens
    score: float  # sum of its start and end logits; -inf if there is no context
    none: float  # score of `no answer`: the same sum of the first token, the lowest of all windows

    def prediction(self, *, may_be_none: bool) -> str:
        """The text; empty if `no answer` is allowed and scores higher (SQuAD v2, threshold 0)."""
        return "" if may_be_none and self.none > self.score else self.text

    def or_better(self, other: "Answer") -> "Answer":
        """The better of the answers from two windows of a row."""
        best = max(self, other, key=lambda answer: answer.score)
        return Answer(text=best.text, score=best.score, none=min(self.none, other.none))


def answer_of(logits: NDArray[np.float32], offsets: NDArray[np.int32], context: str) -> Answer:
    """The answer of a window: of all spans of at most MAX_ANSWER_TOKENS context tokens the one with the highest sum of logits.

    logits: [L, 2] start and end. offsets: [L, 2] characters of the context, -1 for tokens outside it.
    """
    tokens = np.flatnonzero(offsets[:, 0] >= 0)
    start, end = logits[tokens, 0].astype(np.float64), logits[tokens, 1].astype(np.float64)
    none = float(logits[0].astype(np.float64).sum())
    best, span = -np.inf, (0, 0)
    for longer in range(min(MAX_ANSWER_TOKENS, len(tokens))):
        sums = start[: len(tokens) - longer] + end[longer:]
        first = int(sums.argmax())
        if sums[first] > best:
            best, span = float(sums[first]), (first, first + longer)
    text = answer_text(context, offsets, int(tokens[span[0]]), int(tokens[span[1]])) if best > -np.inf else ""
    return Answer(text=text, score=best, none=none)
