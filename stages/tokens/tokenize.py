"""Tokenize text into flat arrays; identify a tokenizer.

Legend: R rows of text, W rows of tokens (windows: as many as R, or more where long rows are split), N tokens.
"""

import json
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.soft_ids import id_dtype

NO_LIMIT = 1_000_000  # tokens; transformers writes 1e30 for a tokenizer without a limit


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Tokenized rows, specials included, no padding."""

    row_offsets: NDArray[np.int64]  # [W + 1]
    input_ids: NDArray[np.unsignedinteger]  # [N]
    token_type_ids: NDArray[np.uint8] | None  # [N]
    special: NDArray[np.bool_]  # [N] added by the tokenizer
    truncated: int  # rows of text that lost tokens
    source: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # [W] row of text; filled in if not given
    window: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # [W] number of the window in its row
    char_spans: NDArray[np.int32] | None = None  # [N, 2] first and last + 1 character in the last text; -1 for other tokens

    def __post_init__(self) -> None:
        if len(self.source) != len(self):
            object.__setattr__(self, "source", np.arange(len(self), dtype=np.int64))
            object.__setattr__(self, "window", np.zeros(len(self), np.int32))

    def __len__(self) -> int:
        """W."""
        return len(self.row_offsets) - 1


def vocab_digest(tokenizer: Any) -> str:
    """sha256 over the token -> id map, which teacher and student must share."""
    return digest(sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])))


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 over everything that turns text into ids: token -> id map, normalizer, splitting, template, special tokens."""
    value = json.loads(tokenizer.backend_tokenizer.to_str())
    value["truncation"] = value["padding"] = None  # set per call
    return digest({"tokenizer": value, "token_types": makes_token_types(tokenizer), "special": special_ids(tokenizer)})


def makes_token_types(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """The ids of the special tokens that models know by name."""
    return {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask", "unk")}


SURELY_LONGER = 16  # characters per token: pairs of longer texts are shortened before they are tokenized together
MARGIN = 64  # tokens: only the last few tokens of a shortened text can differ from those of the whole text


def tokenize(
    tokenizer: Any,
    texts: list[str],
    pairs: list[str] | None,
    *,
    max_length: int,
    vocab_size: int,
    stride: int | None = None,
    char_spans: bool = False,
) -> TokenRows:
    """Tokenize R texts, or R pairs of texts, with specials.

    max_length: tokens, specials included. Longer rows are truncated, the longer text of a pair first. With a stride, they are split into
    windows instead; neighbouring ones share `stride` tokens. Windows of a pair run over its second text, and each has the first text, which
    is shortened if it would leave the second less than half of the tokens. char_spans: also return the characters of each token of the last
    text. Raises ValueError if an id does not fit a vocabulary of vocab_size.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    truncated = np.zeros(len(texts), np.bool_)
    if pairs is not None:
        text_tokens = max_length - backend.num_special_tokens_to_add(True)
        if stride is None:
            shortened = [_shortened(backend, *pair, text_tokens + MARGIN) for pair in zip(texts, pairs, strict=True)]
            texts, pairs = [first for first, _ in shortened], [second for _, second in shortened]
        else:
            texts, truncated = _shorten_firsts(backend, texts, pairs, text_tokens)
    if stride is None:
        backend.enable_truncation(max_length, strategy="longest_first")
    else:
        backend.enable_truncation(max_length, stride=stride, strategy="only_first" if pairs is None else "only_second")
    encoded = backend.encode_batch(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    if stride is None:
        encodings, source = encoded, np.arange(len(encoded))
        truncated = np.fromiter((bool(e.overflowing) for e in encoded), np.bool_, len(encoded))
    else:
        encodings = [window for e in encoded for window in (e, *e.overflowing)]
        source = np.repeat(np.arange(len(encoded)), [1 + len(e.overflowing) for e in encoded])
    lengths = np.fromiter((len(e) for e in encodings), np.int64, len(encodings))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])

    def flat(name: str, dtype: Any) -> NDArray[Any]:
        return np.fromiter(chain.from_iterable(getattr(e, name) for e in encodings), dtype, total)

    ids = flat("ids", np.int64)
    if total and int(ids.max()) >= vocab_size:
        raise ValueError(f"token id {ids.max()} does not fit the teacher's vocabulary of {vocab_size}")
    return TokenRows(
        row_offsets=offsets,
        input_ids=ids.astype(id_dtype(vocab_size)),
        token_type_ids=flat("type_ids", np.uint8) if makes_token_types(tokenizer) else None,
        special=flat("special_tokens_mask", np.bool_),
        truncated=int(truncated.sum()),
        source=source.astype(np.int64),
        window=(np.arange(len(source)) - np.searchsorted(source, source)).astype(np.int32),
        char_spans=_char_spans(encodings, total, 0 if pairs is None else 1) if char_spans else None,
    )


def _shortened(backend: Any, first: str, second: str, tokens: int) -> tuple[str, str]:
    """A pair, each text shortened to `tokens` tokens if it is very long: truncating a very long pair takes quadratic time.

    The text with fewer tokens keeps fewer, because truncation takes from the longer one first.
    """
    if len(first) + len(second) <= SURELY_LONGER * tokens:
        return first, second
    backend.no_truncation()
    of_first, of_second = (backend.encode(text, add_special_tokens=False).offsets for text in (first, second))

    def shorten(text: str, offsets: list[tuple[int, int]], limit: int) -> str:
        return text[: offsets[limit - 1][1]] if len(offsets) > limit else text

    return (
        shorten(first, of_first, tokens - (len(of_first) < len(of_second))),
        shorten(second, of_second, tokens - (len(of_second) < len(of_first))),
    )


def _shorten_firsts(backend: Any, firsts: list[str], seconds: list[str], tokens: int) -> tuple[list[str], NDArray[np.bool_]]:
    """First texts that leave the second text half of `tokens`, or all that it needs; and which of them were shortened: [R]."""
    backend.no_truncation()
    texts = list(firsts)
    shortened = np.zeros(len(firsts), np.bool_)
    encoded_firsts, encoded_seconds = (backend.encode_batch(texts, add_special_tokens=False) for texts in (firsts, seconds))
    for row, (first, second) in enumerate(zip(encoded_firsts, encoded_seconds, strict=True)):
        limit = keep = max(tokens // 2, tokens - len(second))
        while len(first) > limit:  # the end of a shortened word may be split into more tokens than before
            texts[row], shortened[row] = firsts[row][: first.offsets[keep - 1][1]], True
            first, keep = backend.encode(texts[row], add_special_tokens=False), keep - 1
    return texts, shortened


def _char_spans(encodings: list[Any], total: int, sequence: int) -> NDArray[np.int32]:
    """[N, 2] first and last + 1 character of each token of text number `sequence` of the rows; -1, -1 for other tokens."""
    spans = np.fromiter((edge for e in encodings for span in e.offsets for edge in span), np.int32, 2 * total).reshape(total, 2)
    inside = np.fromiter((number == sequence for e in encodings for number in e.sequence_ids), np.bool_, total)
    spans[~inside] = -1
    return spans
