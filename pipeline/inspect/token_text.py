"""Names of tokens and the text they spell, safe to show on a terminal or in a page.

A token's piece is its part of the text as UTF-8, with a leading space if it begins a word and without markers like ## or ▁. A token
of a byte-level or byte-fallback tokenizer may be only a part of a character.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.errors import DatasetError, StorageError
from textsmooth.schemas.manifest import AGAIN, TOKENIZER_FOLDER, Manifest
from textsmooth.schemas.printable import printable
from textsmooth.stages.storage.folder import Folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"  # shown for a space inside a token
MOST_GAPS = 16  # highest ratio of ids to tokens: arrays are as long as the highest id
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def open_tokenizer(folder: Folder, manifest: Manifest) -> "Tokenizer":
    """The tokenizer inside a dataset. DatasetError if it is missing, damaged, or does not fit the manifest's vocabulary."""
    from tokenizers import Tokenizer

    name = f"{TOKENIZER_FOLDER}/tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(folder.read(name).decode())
    except (DatasetError, StorageError):
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise DatasetError(f"{folder.at(name)} is missing or damaged ({error}); {tokenizer_remedy(folder)}") from None
    wrong = wrong_vocabulary(tokenizer, int(manifest.teacher["vocab_size"]))
    if wrong:
        raise DatasetError(f"{folder.at(name)} {wrong}; {tokenizer_remedy(folder)}")
    return tokenizer


def tokenizer_remedy(folder: Folder) -> str:
    """What to do about a missing or damaged tokenizer of a dataset."""
    if folder.read_only:
        return AGAIN
    return f"textsmooth verify {folder} --repair makes its files again from the teacher; or download them again"


def wrong_vocabulary(tokenizer: "Tokenizer", vocab_size: int) -> str | None:
    """Why a tokenizer does not fit a vocabulary of this size; None if it fits."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    highest = max(known.values(), default=-1)
    if highest + 1 == vocab_size <= MOST_GAPS * len(known):
        return None
    return f"has {len(known):,} tokens with ids up to {highest:,}, the manifest a vocabulary of {vocab_size:,}"


class TokenNames:
    """Names and pieces of the tokens of a tokenizer."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        parts = json.loads(tokenizer.to_str())
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        kinds = {kind for name in ("normalizer", "pre_tokenizer", "decoder") for kind in _kinds(parts[name])}
        self._byte_level = "ByteLevel" in kinds
        self._spaced = "Metaspace" in kinds or parts["model"].get("type") == "Unigram"
        self._fallback = "ByteFallback" in kinds or bool(parts["model"].get("byte_fallback"))
        self._prefix: str = parts["model"].get("continuing_subword_prefix") or ""
        self._suffix: str = parts["model"].get("end_of_word_suffix") or ""
        self.apart = not (self._byte_level or self._spaced or self._suffix)  # pieces do not show whether a space came before them
        plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that byte-level tokenizers write as themselves
        others = [byte for byte in range(256) if byte not in plain]
        self._bytes_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}

    def name(self, token: int) -> str:
        """A token on one line with its markers: SPACE for spaces of byte-level tokens, <0xE2> for parts of a character."""
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return f"<id {token}>"  # padding of the vocabulary dimension
        data = self._bytes(token, text)
        return printable(text if data is None else data.decode("utf-8", "surrogateescape").replace(" ", SPACE))

    def _bytes(self, token: int, text: str) -> bytes | None:
        """The bytes of a byte-level token; None for another token."""
        if not self._byte_level or token in self._added or any(char not in self._bytes_of for char in text):
            return None
        return bytes(self._bytes_of[char] for char in text)

    def is_special(self, token: int) -> bool:
        return token in self._added and bool(self._added[token].special)

    def piece(self, token: int) -> bytes:
        """A token's part of the text in UTF-8; a space for a special token."""
        text = self._tokenizer.id_to_token(token)
        if text is None or self.is_special(token):
            return b" "
        data = self._bytes(token, text)
        if data is not None:
            return data
        byte = _BYTE.fullmatch(text) if self._fallback else None
        if byte:
            return bytes([int(byte[1], 16)])
        if self._spaced:
            text = text.replace(SPACE, " ")
        elif self._suffix:
            text = f"{text[: -len(self._suffix)]} " if text.endswith(self._suffix) else text
        elif self._prefix and text.startswith(self._prefix):
            text = text[len(self._prefix) :]
        else:
            text = f" {text}"
        return text.encode("utf-8", "surrogatepass")

    @cached_property
    def pieces(self) -> list[bytes]:
        """The piece of every token of the tokenizer, by id."""
        known = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return [self.piece(token) for token in range(1 + max(known, default=-1))]

    def pieces_of(self, tokens: Iterable[int]) -> list[bytes]:
        known = self.pieces
        return [known[token] if token < len(known) else b" " for token in tokens]

    def spelled(self, tokens: Iterable[int]) -> list[tuple[bool, str]]:
        """For each token of a row: whether a space comes before it, and its text, or its name if it spells nothing."""
        texts, open_before = [], True
        for token in tokens:
            (piece,) = self.pieces_of([token])
            text = piece.decode("utf-8", "surrogateescape")
            shown = printable(text.strip(" "))
            texts.append((open_before or text.startswith(" "), shown or self.name(token)))
            open_before = text.endswith(" ")
        return texts

    def word_flags(self, vocab_size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Three arrays [V] bool: the token begins with a space, ends with a space, has a letter or digit."""
        texts = [piece.decode("utf-8", "surrogateescape") for piece in self.pieces_of(range(vocab_size))]
        before, after = np.array([t.startswith(" ") for t in texts], bool), np.array([t.endswith(" ") for t in texts], bool)
        return before, after, np.array([any(map(str.isalnum, text)) for text in texts], bool)


def fold(text: str) -> str:
    """The text without case and accents, for comparison."""
    if text.isascii():
        return text.lower()
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)).casefold()


def word_pattern(word: str) -> re.Pattern[str]:
    """A pattern for a word, or words in a row, in folded text: whole words only, with any space a tokenizer puts around punctuation."""
    chars = " ".join(fold(word).split())
    parts = [re.escape(chars[:1])]
    for left, right in pairwise(chars):
        parts.append(r"\s*" if " " not in (left, right) and (_apart(left) or _apart(right)) else "")
        parts.append(r"\s+" if right == " " else re.escape(right))
    before = "" if _apart(chars[:1]) else r"(?<!\w)"
    after = "" if _apart(chars[-1:]) else r"(?!\w)"
    return re.compile(f"{before}{''.join(parts)}{after}")


def _apart(char: str) -> bool:
    """Whether a tokenizer may put a space next to this character: punctuation, and scripts written without spaces."""
    return not char.isalnum() or unicodedata.east_asian_width(char) in "WF"


def _kinds(part: Any) -> Iterable[str]:
    """The types of a part of tokenizer.json and of all its nested parts."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for value in part.values():
            yield from _kinds(value)
    elif isinstance(part, list):
        for value in part:
            yield from _kinds(value)
