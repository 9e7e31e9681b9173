"""Warnings where a tokenizer does not fit a corpus, or the model behind it; silence where it does."""

import json
from pathlib import Path

import pytest
from helpers_tokenizers import BERT, LETTERS, byte_pairs, pieces, word_pieces
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textsmooth.stages.tokens.fit import fit_warnings, p_original_warning

WORDS = [
    "garden",
    "window",
    "letter",
    "number",
    "winter",
    "summer",
    "market",
    "doctor",
    "teacher",
    "student",
    "kitchen",
    "village",
    "bridge",
]
TEXT = [f"The {a} has a {b}." for a in WORDS for b in WORDS[:4]]


def wrapped(vocab: list[str], *, lowercase: bool = True, normalizer: bool = True) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocab)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase) if normalizer else None
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{name}_token": token for name, token in BERT.items()})


NOWHERE = Path("nowhere")
SINGLE = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
LONG = [f"word{n}" for n in range(2 * len(SINGLE))]  # most tokens are words, as in a real vocabulary
OWN = wrapped([*BERT.values(), *SINGLE, *LONG, *WORDS, "the", "has"])
FOREIGN = wrapped([*BERT.values(), *SINGLE, *LONG])


def test_a_tokenizer_that_fits_gives_no_warning() -> None:
    assert list(fit_warnings(OWN, None, NOWHERE, TEXT)) == []
    assert list(fit_warnings(OWN, None, NOWHERE, [])) == []
    assert list(fit_warnings(OWN, None, NOWHERE, [""])) == []


def test_words_cut_into_letters_are_reported() -> None:
    (warning,) = fit_warnings(FOREIGN, None, NOWHERE, TEXT)
    assert "into 6.2 tokens on average, of 1.0 letters: " in warning
    assert "not made for the language of this corpus" in warning


def test_few_words_say_nothing() -> None:
    assert list(fit_warnings(FOREIGN, None, NOWHERE, TEXT[:10])) == []


def test_a_vocabulary_of_characters_cuts_words_on_purpose() -> None:
    assert list(fit_warnings(wrapped([*BERT.values(), *SINGLE]), None, NOWHERE, TEXT)) == []


def test_east_asian_text_is_no_word_cut_into_letters() -> None:
    assert list(fit_warnings(OWN, None, NOWHERE, ["東京日本東京", "日本東京日本"] * 60)) == []


def test_unknown_tokens_are_reported() -> None:
    (warning,) = fit_warnings(OWN, None, NOWHERE, ["ж garden", "window ж"])
    assert warning.startswith("50% of the tokens are unknown to the tokenizer ([UNK])")
    assert list(fit_warnings(OWN, None, NOWHERE, ["ж", *["garden " * 4] * 6])) == []


def test_capitals_that_are_never_used_are_reported() -> None:
    vocab = [*BERT.values(), *SINGLE, *LONG, *WORDS, "the", "has", "Lisbon", "##Town", "iPod", "USA"]
    (warning,) = fit_warnings(wrapped(vocab), None, NOWHERE, TEXT)
    assert "the vocabulary has 4 tokens with capitals (Lisbon, ##Town, iPod), and the tokenizer lower-cases" in warning
    for fits in (wrapped(vocab, lowercase=False), wrapped(vocab, normalizer=False), wrapped(vocab[:-2])):
        assert not any("capitals" in warning for warning in fit_warnings(fits, None, NOWHERE, TEXT))


@pytest.mark.parametrize("make", [word_pieces, byte_pairs, pieces])
def test_single_capital_letters_may_be_in_a_lower_casing_vocabulary(make: type) -> None:
    """All bytes are tokens of a byte-level vocabulary."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make())
    capitals = [warning for warning in fit_warnings(tokenizer, None, NOWHERE, []) if "capitals" in warning]
    assert capitals == []


def test_other_ids_of_transformers_are_reported_with_a_word_of_the_corpus() -> None:
    (warning,) = fit_warnings(OWN, FOREIGN.backend_tokenizer, NOWHERE, ["a garden"])
    assert "('garden': 'g ##a ##r ##d ##e ##n' instead of 'garden')" in warning


def test_a_low_p_original_is_reported_of_plain_text_only() -> None:
    assert "0.11 on average" in (p_original_warning(0.11, "unmasked") or "")
    assert p_original_warning(0.11, "masked:4") is None
    assert p_original_warning(0.87, "unmasked") is None


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.json"])
def test_a_vocabulary_that_was_edited_alone_is_reported(name: str, tmp_path: Path) -> None:
    tokens = [token for token, _ in sorted(OWN.get_vocab().items(), key=lambda item: item[1])]
    at = tokens.index("garden")

    def warnings() -> list[str]:
        text = "\n".join([*tokens, ""]) if name == "vocab.txt" else json.dumps({token: i for i, token in enumerate(tokens)})
        (tmp_path / name).write_text(text, encoding="utf-8")
        return list(fit_warnings(OWN, None, tmp_path, TEXT))

    assert warnings() == []
    tokens[at] = "Garten"
    (warning,) = warnings()
    assert warning.startswith(f"the teacher's {name} has 'Garten' for id {at}, its tokenizer.json 'garden': tokenizer.json is used")
    (tmp_path / name).write_text("[" * 99_999)
    assert list(fit_warnings(OWN, None, tmp_path, TEXT)) == [] or name == "vocab.txt"


def test_added_tokens_may_stand_where_a_vocabulary_has_a_place_to_spare(tmp_path: Path) -> None:
    tokens = [token for token, _ in sorted(OWN.get_vocab().items(), key=lambda item: item[1])]
    (tmp_path / "vocab.txt").write_text("\r\n".join(["[unused0]", *tokens[1:]]), encoding="utf-8")
    assert list(fit_warnings(OWN, None, tmp_path, TEXT)) == []
