"""Answers come back from token positions; what no window holds is told."""

from typing import Any

import numpy as np
from helpers_gen import VOCAB, WORDS, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.stages.tokens.answer_spans import answer_text, find_spans, window_contexts
from textsmooth.stages.tokens.tokenize import tokenize

V = len(VOCAB)
TOKENIZER = make_tokenizer()
NONE: dict[str, Any] = {"text": [], "answer_start": []}


def answer(text: str, start: int) -> dict[str, Any]:
    return {"text": [text], "answer_start": [start]}


def spans(question: str, context: str, found: dict[str, Any], *, max_length: int = 20, stride: int = 4) -> Any:
    tokens = tokenize(TOKENIZER, [question], [context], max_length=max_length, vocab_size=V, stride=stride, char_spans=True)
    return tokens, find_spans(tokens, [found], 1)


@given(st.lists(st.sampled_from([*WORDS, "catly", "naïve", "🙂🙂", "."]), min_size=1, max_size=40), st.data())
def test_every_answer_of_whole_words_comes_back(words: list[str], data: Any) -> None:
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(words) - 1)))  # shorter than what windows share
    start, text = len(" ".join(words[:first])) + (first > 0), " ".join(words[first : last + 1])
    tokens, found = spans("who is it ?", context, answer(text, start), max_length=24, stride=9)
    assert found.answerable.all() and not found.lost.any()
    with_answer = [w for w in range(len(tokens)) if found.start[w]]
    assert with_answer
    for w in range(len(tokens)):
        low, high = tokens.row_offsets[w], tokens.row_offsets[w + 1]
        ids, places = tokens.input_ids[low:high], tokens.char_spans[low:high]
        if w in with_answer:
            assert answer_text(context, places, found.start[w], found.end[w]) == text
        else:
            assert (found.start[w], found.end[w]) == (0, 0) and VOCAB[ids[0]] == "[CLS]"
            inside = places[places[:, 0] >= 0]
            assert inside[0, 0] > start or inside[-1, 1] < start + len(text)


def test_an_answer_inside_a_word_takes_its_tokens() -> None:
    tokens, found = spans("who", "a catly dog", answer("at", 3))
    assert answer_text("a catly dog", tokens.char_spans, found.start[0], found.end[0]) == "cat"


def test_space_around_an_answer_belongs_to_no_token() -> None:
    tokens, found = spans("who", "  a cat  ", answer(" a cat ", 1))
    assert answer_text("  a cat  ", tokens.char_spans, found.start[0], found.end[0]) == "a cat"


def test_a_question_without_an_answer_points_at_the_first_token() -> None:
    for nothing in (NONE, answer("", 0)):
        _, found = spans("who", "a cat", nothing)
        assert (found.start[0], found.end[0]) == (0, 0)
        assert not found.answerable.any() and not found.lost.any()


def test_an_answer_longer_than_a_window_is_lost_and_told() -> None:
    context = " ".join(WORDS)
    _, found = spans("who", context, answer(context, 0))
    assert not found.start.any()
    assert found.lost.tolist() == [True]


def test_an_answer_of_no_tokens_is_lost_and_told() -> None:
    _, found = spans("who", "a \x01 cat", answer("\x01", 2))
    assert found.lost.tolist() == [True]


def test_the_first_answer_counts() -> None:
    several = {"text": ["dog", "cat"], "answer_start": [6, 2]}
    tokens, found = spans("who", "a cat dog", several)
    assert answer_text("a cat dog", tokens.char_spans, found.start[0], found.end[0]) == "dog"


def test_rows_keep_apart() -> None:
    contexts = ["a cat", " ".join(WORDS), "the dog ran"]
    tokens = tokenize(TOKENIZER, ["who"] * 3, contexts, max_length=20, vocab_size=V, stride=4, char_spans=True)
    found = find_spans(tokens, [answer("cat", 2), NONE, answer("ran", 8)], 3)
    assert found.answerable.tolist() == [True, False, True]
    last = len(tokens) - 1
    places = tokens.char_spans[tokens.row_offsets[last] :]  # type: ignore[index]
    assert answer_text(contexts[2], places, found.start[last], found.end[last]) == "ran"
    assert np.flatnonzero(found.start).tolist() == [0, last]


@given(st.lists(st.text("ab é🙂\x01 .", max_size=90), min_size=1, max_size=3), st.integers(0, 3))
def test_the_context_of_a_window_is_what_its_tokens_cover(contexts: list[str], stride: int) -> None:
    questions = ["who"] * len(contexts)
    tokens = tokenize(TOKENIZER, questions, contexts, max_length=9, vocab_size=V, stride=stride, char_spans=True)
    cut = window_contexts(tokens, contexts)
    assert tokens.char_spans is not None
    for w, row in enumerate(tokens.source):
        window = slice(tokens.row_offsets[w], tokens.row_offsets[w + 1])
        begin, text = int(cut.start[w]), cut.texts[w]
        assert text == contexts[row][begin : begin + len(text)]
        covered = [pair for pair in cut.char_spans[window].tolist() if pair != [-1, -1]]
        assert (min((low for low, _ in covered), default=0), max((high for _, high in covered), default=0)) == (0, len(text))
        for before, after in zip(tokens.char_spans[window].tolist(), cut.char_spans[window].tolist(), strict=True):
            assert before == after == [-1, -1] or text[slice(*after)] == contexts[row][slice(*before)]
