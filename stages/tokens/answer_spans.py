"""Answers of span tasks (SQuAD): from characters of the context to tokens, and back.

Legend: R rows of text, W windows, N tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.stages.tokens.tokenize import TokenRows


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The first answer of each window's row, in tokens of the window."""

    start: NDArray[np.int32]  # [W] first token; 0 if the window has no answer or only part of it
    end: NDArray[np.int32]  # [W] last token
    answerable: NDArray[np.bool_]  # [R] the row has an answer
    lost: NDArray[np.bool_]  # [R] the row has an answer, but no window holds all of it


def find_spans(tokens: TokenRows, answers: list[Any], rows: int) -> Spans:
    """Token positions of answers.

    tokens: R rows in W windows, with char_spans of the context. answers: for each row `{"text": [..], "answer_start": [..]}`, in characters
    of the context; no text for a question without answer. The first answer counts.

    An answer's tokens are all those that share a character with it: an answer that ends inside a token takes the whole token. In a window
    without the whole answer, start and end are 0 ([CLS]), as is usual for SQuAD.
    """
    assert tokens.char_spans is not None
    start, end = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    answerable, located = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    last = np.append(tokens.source[1:] != tokens.source[:-1], True) if len(tokens) else np.zeros(0, np.bool_)
    for w, row in enumerate(tokens.source):
        answer = answers[row]
        if not answer["text"] or not answer["text"][0]:
            continue
        answerable[row] = True
        low, high = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
        spans = tokens.char_spans[tokens.row_offsets[w] : tokens.row_offsets[w + 1]]
        context = np.flatnonzero(spans[:, 0] >= 0)
        if not len(context):
            continue
        begins, ends = spans[context, 0], spans[context, 1]
        whole = (tokens.window[w] == 0 or begins[0] <= low) and (last[w] or high <= ends[-1])
        inside = context[(ends > low) & (begins < high)]
        if whole and len(inside):
            start[w], end[w], located[row] = inside[0], inside[-1], True
    return Spans(start=start, end=end, answerable=answerable, lost=answerable & ~located)


@dataclass(frozen=True, kw_only=True)
class WindowContexts:
    """Of each window the part of its row's context that its tokens cover."""

    texts: list[str]  # [W]
    start: NDArray[np.int32]  # [W] the first character of `texts` in the context
    char_spans: NDArray[np.int32]  # [N, 2] as TokenRows.char_spans, but in characters of `texts`


def window_contexts(tokens: TokenRows, contexts: list[str]) -> WindowContexts:
    """Cut the contexts of R rows to what their W windows read: no more text than tokens, however often windows overlap.

    tokens: with char_spans of the contexts. A window without a token of the context has an empty text from character 0.
    """
    assert tokens.char_spans is not None
    texts, start, char_spans = [], np.zeros(len(tokens), np.int32), tokens.char_spans.copy()
    for w, row in enumerate(tokens.source):
        spans = char_spans[tokens.row_offsets[w] : tokens.row_offsets[w + 1]]
        inside = spans[:, 0] >= 0
        low, high = (int(spans[inside].min()), int(spans[inside].max())) if inside.any() else (0, 0)
        texts.append(contexts[row][low:high])
        start[w], spans[inside] = low, spans[inside] - low
    return WindowContexts(texts=texts, start=start, char_spans=char_spans)


def answer_text(context: str, char_spans: NDArray[np.int32], start: int, end: int) -> str:
    """The text of tokens start to end, inclusive, of a window. char_spans: [L, 2] of the window."""
    return context[char_spans[start, 0] : char_spans[end, 1]]
