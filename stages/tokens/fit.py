"""Whether a tokenizer fits a corpus and the model behind it: what to tell the user before, and after, a run is paid for."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from textsmooth.stages.tokens.load import PROBES, first_difference

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SAMPLE_CHARS = 2_000  # of a text that are looked at
LONG_WORD = re.compile(r"(?<!\w)[^\W\d_]{4,}(?!\w)")
NO_SPACES = re.compile("[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")  # East Asian: a character says much
CAPITAL = re.compile(r"(?=[^A-Za-z]*[A-Za-z]{2})[^A-Z]*[A-Z]")  # two letters, for any byte may be a token of its own
FEWEST_WORDS = 50  # for an average
LEAST_LETTERS = 2.0  # of a token, on average: about 4 for a vocabulary made for the language, 1 for one that knows only letters
MOST_UNKNOWN = 0.05  # share of the tokens
FEWEST_CAPITALS = 3  # tokens
LEAST_P_ORIGINAL = 0.5  # mean p(original) of plain text: about 0.87 for a teacher that knows the language


def fit_warnings(tokenizer: "PreTrainedTokenizerFast", rebuilt: "Tokenizer | None", folder: Path, texts: Sequence[str]) -> Iterator[str]:
    """What is odd about a tokenizer and how it splits a sample of a corpus, one line each.

    tokenizer, rebuilt: as load_both gives them for the folder.
    """
    backend = tokenizer.backend_tokenizer
    texts = [text[:SAMPLE_CHARS] for text in texts]
    if rebuilt is not None and (difference := first_difference(backend, rebuilt, [*texts, *PROBES])):
        word, of_file, of_class = (text[:80] for text in difference)
        yield (
            f"AutoTokenizer gives other ids than the teacher's tokenizer.json ({word!r}: {of_class!r} instead of {of_file!r}); those of "
            "tokenizer.json are used: load the dataset's tokenizer/ where ids must be the same"
        )
    yield from _other_vocabulary(folder, backend)
    yield from _capitals(backend)
    backend.no_truncation()
    backend.no_padding()
    words = [word for text in texts for word in LONG_WORD.findall(text) if not NO_SPACES.search(word)]
    tokens = sum(len(e) for e in backend.encode_batch(words, add_special_tokens=False)) if words else 0
    letters = sum(map(len, words))
    if len(words) >= FEWEST_WORDS and letters < LEAST_LETTERS * tokens and _has_words(backend):
        yield (
            f"words of four letters and more are cut into {tokens / len(words):.1f} tokens on average, of {letters / tokens:.1f} letters: "
            "the teacher's vocabulary was not made for the language of this corpus"
        )
    ids = [i for e in backend.encode_batch(texts, add_special_tokens=False) for i in e.ids]
    unknown = ids.count(tokenizer.unk_token_id) / max(len(ids), 1)
    if unknown > MOST_UNKNOWN:
        yield f"{unknown:.0%} of the tokens are unknown to the tokenizer ({tokenizer.unk_token}): the teacher cannot read them"


def _other_vocabulary(folder: Path, backend: "Tokenizer") -> Iterator[str]:
    """A vocab.txt or vocab.json that gives an id to another token than the tokenizer does: one of the two was edited alone."""
    added = backend.get_added_tokens_decoder()
    for name in ("vocab.txt", "vocab.json"):
        try:
            text = (folder / name).read_bytes().decode()
            tokens = {i: token for token, i in json.loads(text).items()} if name == "vocab.json" else dict(enumerate(text.split("\n")))
        except (OSError, ValueError, RecursionError, AttributeError):  # transformers reads them only where there is no tokenizer.json
            continue
        for i, token in tokens.items():
            own = backend.id_to_token(i) if isinstance(i, int) and i >= 0 else None
            if own is not None and i not in added and own != token.removesuffix("\r"):
                yield (
                    f"the teacher's {name} has {token[:80]!r} for id {i}, its tokenizer.json {own[:80]!r}: tokenizer.json is used; remove "
                    f"it if the teacher was trained with {name}"
                )
                break


def _capitals(backend: "Tokenizer") -> Iterator[str]:
    """Tokens that a lower-casing normalizer leaves without use: the vocabulary was made for text with capitals."""
    normalizer = backend.normalizer
    if normalizer is None or normalizer.normalize_str("AB") != "ab":
        return
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    vocabulary = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    plain = (token for token, _ in vocabulary if token not in added and not re.fullmatch(r"\[.*\]|<.*>", token))
    capitals = [token for token in plain if CAPITAL.match(token)]
    if len(capitals) >= FEWEST_CAPITALS:
        yield (
            f"the vocabulary has {len(capitals):,} tokens with capitals ({', '.join(islice(capitals, 3))}), and the tokenizer lower-cases: "
            "if the teacher tells them apart, set do_lower_case to false in its tokenizer_config.json, and lowercase in tokenizer.json"
        )


def _has_words(backend: "Tokenizer") -> bool:
    """Whether most tokens have more than two letters: not so in a vocabulary of characters, which cuts every word on purpose."""
    tokens = backend.get_vocab(with_added_tokens=False)
    return sum(len(re.sub(r"[\W_]", "", token)) > 2 for token in tokens) > len(tokens) / 2


def p_original_warning(mean: float, context: str) -> str | None:
    """What a low mean p(original) says; None if it is as usual, or of masked tokens, which a teacher cannot see."""
    if context != "unmasked" or mean >= LEAST_P_ORIGINAL:
        return None
    return (
        f"p(original) is low: {mean:.2f} on average, about 0.9 is usual. The teacher hardly recognizes this text: do its language, "
        "tokenizer and weights belong to it?"
    )
