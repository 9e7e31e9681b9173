"""Answers of span tasks (SQuAD): chosen from start and end logits, compared with those of the corpus.

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
    """Lower case, without punctuation, articles and superfluous spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, both normalized; no answers: if it is empty."""
    return _best(lambda gold: float(normalized(prediction) == normalized(gold)), golds)


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 of the words that prediction and answer share, of the answer where it is highest; 1 or 0 where one of the two is empty."""
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
    """What a student says to a question, of one window or of several."""

    text: str  # the best span of context tokens
    score: float  # sum of its start and end logits; -inf if there is no context
    none: float  # the same of the first token, which stands for `no answer`: the lowest of all windows

    def said(self, *, may_be_none: bool) -> str:
        """The answer: empty where there may be none and that scores higher (SQuAD v2, threshold 0)."""
        return "" if may_be_none and self.none > self.score else self.text

    def or_better(self, other: "Answer") -> "Answer":
        """Of two windows of a row."""
        best = max(self, other, key=lambda answer: answer.score)
        return Answer(text=best.text, score=best.score, none=min(self.none, other.none))


def answer_of(logits: NDArray[np.float32], places: NDArray[np.int32], context: str) -> Answer:
    """The best answer of a window: of all spans of at most MAX_ANSWER_TOKENS context tokens the one with the highest sum.

    logits: [L, 2] start and end. places: [L, 2] characters of the context, -1 for tokens that are not of it.
    """
    tokens = np.flatnonzero(places[:, 0] >= 0)
    start, end = logits[tokens, 0].astype(np.float64), logits[tokens, 1].astype(np.float64)
    none = float(logits[0].astype(np.float64).sum())
    best, span = -np.inf, (0, 0)
    for longer in range(min(MAX_ANSWER_TOKENS, len(tokens))):
        sums = start[: len(tokens) - longer] + end[longer:]
        first = int(sums.argmax())
        if sums[first] > best:
            best, span = float(sums[first]), (first, first + longer)
    text = answer_text(context, places, int(tokens[span[0]]), int(tokens[span[1]])) if best > -np.inf else ""
    return Answer(text=text, score=best, none=none)
