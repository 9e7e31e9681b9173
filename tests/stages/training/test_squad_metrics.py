"""Scores as in the official scripts of SQuAD; the answer is the best of all spans, of all windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.stages.training.squad_metrics import MAX_ANSWER_TOKENS, Answer, answer_of, exact_match, normalized, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat's\tpyjamas!", "cats pyjamas"),
        ("An apple, a pear; the END.", "apple pear end"),
        ("anthem", "anthem"),  # `an` and `the` inside a word stay
        ("the", ""),
        ("a-b", "ab"),  # punctuation goes before articles do
        ("", ""),
    ],
)
def test_normalization(text: str, expected: str) -> None:
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel Tower", "tower"], 1, 1),
        ("Eiffel Tower in Paris", ["Eiffel Tower"], 0, 2 * 0.5 * 1 / 1.5),
        ("tower of of steel", ["of steel", "tower"], 0, 2 * 0.5 * 1 / 1.5),  # a word counts as often as both have it
        ("of of steel", ["of stone of"], 0, 2 / 3),
        ("London", ["Paris"], 0, 0),
        ("", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["Paris", "the"], 0, 0),  # an answer of nothing but articles is none, if there are others
        ("a", ["the"], 1, 1),
    ],
)
def test_scores(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, golds) == exact
    assert token_f1(prediction, golds) == pytest.approx(f1)


def window(length: int, first: int) -> tuple[np.ndarray, str]:
    """Places of a window: `first` tokens of the question, then words of two characters of the context, then one special token."""
    places = np.full((length, 2), -1, np.int32)
    count = length - first - 1
    places[first : length - 1, 0] = np.arange(count) * 3
    places[first : length - 1, 1] = np.arange(count) * 3 + 2
    return places, " ".join(f"{chr(97 + i % 26)}{i % 10}" for i in range(count))


@given(st.integers(4, 60), st.integers(1, 3), st.integers(0, 10_000))
def test_the_answer_is_the_best_of_all_spans_of_the_context(length: int, first: int, seed: int) -> None:
    places, context = window(length, first)
    logits = np.random.default_rng(seed).normal(0, 3, (length, 2)).astype(np.float32)
    logits[:first] += 20  # nothing outside the context can be chosen
    found = answer_of(logits, places, context)
    best = max(
        (
            (float(logits[i, 0]) + float(logits[j, 1]), i, j)
            for i in range(first, length - 1)
            for j in range(i, min(i + MAX_ANSWER_TOKENS, length - 1))
        ),
        default=(-np.inf, 0, 0),
    )
    assert found.score == pytest.approx(best[0])
    if best[0] > -np.inf:
        assert found.text == context[places[best[1], 0] : places[best[2], 1]]
    assert found.none == pytest.approx(float(logits[0].sum()))


def test_a_window_without_context_says_nothing() -> None:
    found = answer_of(np.ones((3, 2), np.float32), np.full((3, 2), -1, np.int32), "context")
    assert found.text == "" and found.score == -np.inf
    other = Answer(text="Paris", score=-50.0, none=1.0)
    assert found.or_better(other).text == other.or_better(found).text == "Paris"


def test_no_answer_is_said_only_where_there_may_be_none_and_every_window_says_so() -> None:
    one, two = Answer(text="Paris", score=3.0, none=5.0), Answer(text="London", score=4.0, none=4.5)
    both = one.or_better(two)
    assert (both.text, both.score, both.none) == ("London", 4.0, 4.5)
    assert both.prediction(may_be_none=True) == "" and both.prediction(may_be_none=False) == "London"
    third = Answer(text="Rome", score=1.0, none=2.0)  # a window that is sure of its answer
    assert both.or_better(third).prediction(may_be_none=True) == "London"
