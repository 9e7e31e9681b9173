"""Answers in a context, from characters to tokens: what span tasks (SQuAD) train on and are scored by.

Legend: R rows of text, W windows, N tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.stages.tokens.tokenize import TokenRows


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Where the first answer of each window's row stands, in tokens of the window."""

    start: NDArray[np.int32]  # [W] its first token; the window's first token where it has no answer, or not all of it
    end: NDArray[np.int32]  # [W] its last token
    answerable: NDArray[np.bool_]  # [R] the row has an answer
    lost: NDArray[np.bool_]  # [R] the row has one, but no window holds all of it


def find_spans(tokens: TokenRows, answers: list[Any], rows: int) -> Spans:
    """Token positions of answers.

    tokens: of R rows cut into W windows, with the places of their context's tokens. answers: R times
    `{"text": [..], "answer_start": [..]}`, characters of the context; no text for a question without answer; the first one counts.

    An answer's tokens are all those that share a character with it: an answer that ends inside a word takes the whole token. A window
    without the whole answer has both positions on its first token ([CLS]), as is usual for SQuAD.
    """
    assert tokens.places is not None
    start, end = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    answerable, found = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    last = np.append(tokens.source[1:] != tokens.source[:-1], True) if len(tokens) else np.zeros(0, np.bool_)
    for w, row in enumerate(tokens.source):
        answer = answers[row]
        if not answer["text"] or not answer["text"][0]:
            continue
        answerable[row] = True
        low, high = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
        places = tokens.places[tokens.row_offsets[w] : tokens.row_offsets[w + 1]]
        context = np.flatnonzero(places[:, 0] >= 0)
        if not len(context):
            continue
        begins, ends = places[context, 0], places[context, 1]
        whole = (tokens.window[w] == 0 or begins[0] <= low) and (last[w] or high <= ends[-1])
        inside = context[(ends > low) & (begins < high)]
        if whole and len(inside):
            start[w], end[w], found[row] = inside[0], inside[-1], True
    return Spans(start=start, end=end, answerable=answerable, lost=answerable & ~found)


def answer_text(context: str, places: NDArray[np.int32], start: int, end: int) -> str:
    """The characters of the context that tokens start .. end of a window stand for. places: [L, 2] of the window."""
    return context[places[start, 0] : places[end, 1]]
