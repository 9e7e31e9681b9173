"""Windows cover every token of a row, share what was asked, and stay within the length; places lead back to the text."""

from typing import Any

import numpy as np
import pytest
from helpers_gen import VOCAB, WORDS, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from textsmooth.stages.tokens.tokenize import TokenRows, tokenize, tokenizer_digest

V = len(VOCAB)
TOKENIZER = make_tokenizer()
words = st.sampled_from([*WORDS, "catly", "naïve", "日本", "🙂", "a.b", "\x00", " "])
texts = st.lists(words, max_size=30).map(" ".join)


def plain_ids(text: str) -> list[int]:
    backend = TOKENIZER.backend_tokenizer
    backend.no_truncation()
    return list(backend.encode(text, add_special_tokens=False).ids)


def window_ids(tokens: TokenRows, w: int) -> list[int]:
    """The ids of a window that stand for text."""
    part = slice(tokens.row_offsets[w], tokens.row_offsets[w + 1])
    return list(tokens.input_ids[part][~tokens.special[part]])


@given(st.lists(texts, min_size=1, max_size=4), st.integers(6, 14), st.data())
def test_windows_of_a_text_cover_it_and_share_the_stride(rows: list[str], max_length: int, data: Any) -> None:
    stride = data.draw(st.integers(1, (max_length - 3) // 2))
    tokens = tokenize(TOKENIZER, rows, None, max_length=max_length, vocab_size=V, stride=stride)
    assert list(np.unique(tokens.source)) == list(range(len(rows)))
    assert np.diff(tokens.row_offsets).max() <= max_length
    assert tokens.truncated == 0
    for row, text in enumerate(rows):
        numbers = np.flatnonzero(tokens.source == row)
        assert tokens.window[numbers].tolist() == list(range(len(numbers)))
        joined = window_ids(tokens, numbers[0])
        for w in numbers[1:]:
            assert window_ids(tokens, w)[:stride] == joined[-stride:]
            joined += window_ids(tokens, w)[stride:]
        assert joined == plain_ids(text)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.integers(11, 18), st.data())
def test_windows_of_a_pair_repeat_the_first_text(rows: list[tuple[str, str]], max_length: int, data: Any) -> None:
    room = max_length - 3
    stride = data.draw(st.integers(1, (room - 1) // 2))
    firsts, seconds = [a for a, _ in rows], [b for _, b in rows]
    tokens = tokenize(TOKENIZER, firsts, seconds, max_length=max_length, vocab_size=V, stride=stride, char_spans=True)
    assert tokens.char_spans is not None and tokens.token_type_ids is not None
    assert np.diff(tokens.row_offsets).max() <= max_length
    most = [max(room // 2, room - len(plain_ids(second))) for second in seconds]
    assert tokens.truncated == sum(len(plain_ids(text)) > limit for text, limit in zip(firsts, most, strict=True))
    for row, (first, second) in enumerate(rows):
        joined: list[int] = []
        for number, w in enumerate(np.flatnonzero(tokens.source == row)):
            part = slice(tokens.row_offsets[w], tokens.row_offsets[w + 1])
            in_second = tokens.char_spans[part, 0] >= 0
            ids = tokens.input_ids[part]
            question = list(ids[~in_second & ~tokens.special[part]])
            assert len(question) <= most[row]
            if len(plain_ids(first)) <= most[row]:
                assert question == plain_ids(first)
            context = list(ids[in_second])
            assert context[: stride if number else 0] == (joined[-stride:] if number else [])
            joined += context[stride if number else 0 :]
            for token, (low, high) in zip(ids[in_second], tokens.char_spans[part][in_second], strict=True):
                piece = VOCAB[token].removeprefix("##")
                assert VOCAB[token] == "[UNK]" or second[low:high].lower().replace("ï", "i") == piece
        assert joined == plain_ids(second)


def test_long_pairs_are_cut_as_if_whole() -> None:
    long = " ".join(WORDS * 400)
    both = tokenize(TOKENIZER, [long, "a cat", long], [long, long, "a cat"], max_length=20, vocab_size=V)
    assert np.diff(both.row_offsets).tolist() == [20, 20, 20]
    assert both.truncated == 3
    backend = TOKENIZER.backend_tokenizer
    backend.enable_truncation(20, strategy="longest_first")
    short = " ".join(WORDS)  # long enough to be cut, short enough for the tokenizer itself
    for row, pair in enumerate(((short, short), ("a cat", short), (short, "a cat"))):
        assert backend.encode(*pair).ids == both.input_ids[20 * row : 20 * row + 20].tolist()


def test_a_long_pair_is_cut_as_transformers_cuts_it() -> None:
    """Where the room is odd, the longer text has the odd token, however long both are."""
    first, second = "cat " * 600, "dog " * 400
    for texts, pairs in (([first], [second]), ([second], [first])):
        ours = tokenize(TOKENIZER, texts, pairs, max_length=20, vocab_size=V)
        theirs = TOKENIZER(texts, pairs, truncation=True, max_length=20)
        assert ours.input_ids.tolist() == theirs["input_ids"][0]
        assert ours.token_type_ids is not None and ours.token_type_ids.tolist() == theirs["token_type_ids"][0]


def test_a_pair_that_fits_is_not_cut_for_windows() -> None:
    whole = tokenize(TOKENIZER, ["cat " * 12], ["a dog"], max_length=20, vocab_size=V)
    windows = tokenize(TOKENIZER, ["cat " * 12], ["a dog"], max_length=20, vocab_size=V, stride=5)
    assert (windows.truncated, len(windows)) == (0, 1)
    assert windows.input_ids.tolist() == whole.input_ids.tolist()


def test_the_digest_knows_what_the_special_tokens_are() -> None:
    other = make_tokenizer()
    assert tokenizer_digest(other) == tokenizer_digest(TOKENIZER)
    other.mask_token = "[UNK]"
    assert tokenizer_digest(other) != tokenizer_digest(TOKENIZER)


def test_truncated_rows_are_counted() -> None:
    tokens = tokenize(TOKENIZER, ["a cat sat", "a " * 30], None, max_length=8, vocab_size=V)
    assert (len(tokens), tokens.truncated) == (2, 1)
    assert tokens.source.tolist() == [0, 1] and tokens.window.tolist() == [0, 0]


def test_an_id_beyond_the_vocabulary_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        tokenize(TOKENIZER, ["ly catly"], None, max_length=8, vocab_size=20)


def test_no_rows() -> None:
    tokens = tokenize(TOKENIZER, [], None, max_length=8, vocab_size=V, stride=2, char_spans=True)
    assert len(tokens) == 0 and tokens.char_spans is not None and tokens.char_spans.shape == (0, 2)
