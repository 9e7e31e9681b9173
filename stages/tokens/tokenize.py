"""Text to tokens, as flat arrays, and the identity of a tokenizer.

Legend: R rows of text, W rows of tokens (windows: as many as R, or more where long rows are cut into several), N tokens.
"""

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.canonical import digest
from textsmooth.schemas.errors import TeacherError, first_line
from textsmooth.schemas.soft_ids import id_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NO_LIMIT = 1_000_000  # transformers writes 1e30 where a tokenizer knows no limit


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Tokenized rows, specials included, no padding."""

    row_offsets: NDArray[np.int64]  # [W + 1]
    input_ids: NDArray[np.unsignedinteger]  # [N]
    token_type_ids: NDArray[np.uint8] | None  # [N]
    special: NDArray[np.bool_]  # [N] put there by the tokenizer, not by the text
    truncated: int  # rows of text that lost tokens
    source: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # [W] which row of text; set if left out
    window: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # [W] which window of it
    places: NDArray[np.int32] | None = None  # [N, 2] characters of the last text that a token stands for; -1 for other tokens

    def __post_init__(self) -> None:
        if len(self.source) != len(self):
            object.__setattr__(self, "source", np.arange(len(self), dtype=np.int64))
            object.__setattr__(self, "window", np.zeros(len(self), np.int32))

    def __len__(self) -> int:
        """W."""
        return len(self.row_offsets) - 1


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer in a model's folder, from tokenizer.json or from older files that transformers can convert.

    TeacherError if there is none, with what is missing.
    """
    from transformers import AutoTokenizer

    missing = _missing(folder)
    if missing:
        raise TeacherError(f"cannot load a tokenizer from {folder}: {missing}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        why = first_line(error).rstrip(": ")
        raise TeacherError(f"cannot load a tokenizer from {folder}: {why}; save its tokenizer.json there") from error
    if not getattr(tokenizer, "is_fast", False):
        raise TeacherError(f"{folder} has no fast tokenizer; save one there first (it needs a tokenizer.json)")
    if len(tokenizer) < 10 or (tokenizer.cls_token_id is None and tokenizer.bos_token_id is None):
        raise TeacherError(f"{folder} has no usable tokenizer; save the model's tokenizer there (tokenizer.json)")
    return tokenizer


def _missing(folder: Path) -> str | None:
    """What is missing in a folder that has no tokenizer.json; None if transformers can make a tokenizer of what it has."""
    has = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" in has:
        return None
    pieces = sorted(name for name in has if name.endswith(".model"))
    lacks = [name for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")) if not _importable(module)]
    if pieces and lacks:
        return f"to read its {pieces[0]}, pip install {' '.join(lacks)}; or save its tokenizer.json there"
    if "vocab.json" in has and "merges.txt" not in has:
        return "it has vocab.json, but no merges.txt beside it"
    if not pieces and not has & {"vocab.json", "vocab.txt"}:
        return "it has no tokenizer.json, nor vocab.txt, vocab.json with merges.txt, or a sentencepiece *.model"
    return None


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False


def vocab_digest(tokenizer: Any) -> str:
    """sha256 over the token -> id map: what teacher and student must share."""
    return digest(sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])))


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 over everything that turns text into ids: the map, normalizer, splitting, template, which token is the mask, which pads."""
    value = json.loads(tokenizer.backend_tokenizer.to_str())
    value["truncation"] = value["padding"] = None  # set per call
    return digest({"tokenizer": value, "token_types": makes_token_types(tokenizer), "special": special_ids(tokenizer)})


def makes_token_types(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """The ids of the special tokens that models know by name."""
    return {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask", "unk")}


SURELY_LONGER = 16  # characters per token: a text beyond it is looked at before it is paired with another
MARGIN = 64  # tokens: where a text is cut, only the last few may come out otherwise


def tokenize(
    tokenizer: Any,
    texts: list[str],
    pairs: list[str] | None,
    *,
    max_length: int,
    vocab_size: int,
    stride: int | None = None,
    places: bool = False,
) -> TokenRows:
    """Tokenize R texts, or R pairs of texts, with specials.

    max_length: tokens, specials included. Longer rows lose tokens from the longer text; or, given a stride, are cut into windows that share
    stride tokens, of a pair along its second text, each with the first (cut where it leaves the second less than half of the room).
    places: also where the tokens of the last text stand in it. ValueError if an id does not fit a vocabulary of vocab_size.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    cut = np.zeros(len(texts), np.bool_)
    if pairs is not None:
        room = max_length - backend.num_special_tokens_to_add(True)
        if stride is None:
            shortened = [_shortened(backend, *pair, room + MARGIN) for pair in zip(texts, pairs, strict=True)]
            texts, pairs = [first for first, _ in shortened], [second for _, second in shortened]
        else:
            texts, cut = _cut(backend, texts, pairs, room)
    if stride is None:
        backend.enable_truncation(max_length, strategy="longest_first")
    else:
        backend.enable_truncation(max_length, stride=stride, strategy="only_first" if pairs is None else "only_second")
    whole = backend.encode_batch(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    if stride is None:
        encodings, source = whole, np.arange(len(whole))
        cut = np.fromiter((bool(e.overflowing) for e in whole), np.bool_, len(whole))
    else:
        encodings = [window for e in whole for window in (e, *e.overflowing)]
        source = np.repeat(np.arange(len(whole)), [1 + len(e.overflowing) for e in whole])
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
        truncated=int(cut.sum()),
        source=source.astype(np.int64),
        window=(np.arange(len(source)) - np.searchsorted(source, source)).astype(np.int32),
        places=_places(encodings, total, 0 if pairs is None else 1) if places else None,
    )


def _shortened(backend: Any, first: str, second: str, tokens: int) -> tuple[str, str]:
    """A pair, or as much of each text as makes so many tokens: two very long texts would be cut into every pair of their parts.

    The text that has fewer tokens still has fewer: which is the longer one decides how the pair is cut.
    """
    if len(first) + len(second) <= SURELY_LONGER * tokens:
        return first, second
    backend.no_truncation()
    found = [backend.encode(text, add_special_tokens=False).offsets for text in (first, second)]
    most = [tokens - (len(mine) < len(other)) for mine, other in (found, reversed(found))]
    texts = [
        text[: edges[limit - 1][1]] if len(edges) > limit else text for text, edges, limit in zip((first, second), found, most, strict=True)
    ]
    return texts[0], texts[1]


def _cut(backend: Any, firsts: list[str], seconds: list[str], room: int) -> tuple[list[str], NDArray[np.bool_]]:
    """First texts that leave the second text half of the room, or all that it needs; and which of them had to be cut: [R]."""
    backend.no_truncation()
    kept = list(firsts)
    cut = np.zeros(len(firsts), np.bool_)
    found, others = (backend.encode_batch(texts, add_special_tokens=False) for texts in (firsts, seconds))
    for row, (mine, other) in enumerate(zip(found, others, strict=True)):
        most = tokens = max(room // 2, room - len(other))
        while len(mine) > tokens:  # the end of a word that was cut may come out as more tokens than before
            kept[row], cut[row] = firsts[row][: mine.offsets[most - 1][1]], True
            mine, most = backend.encode(kept[row], add_special_tokens=False), most - 1
    return kept, cut


def _places(encodings: list[Any], total: int, sequence: int) -> NDArray[np.int32]:
    """[N, 2] first and last + 1 character of each token of one sequence of the rows; -1, -1 for other tokens."""
    found = np.fromiter((edge for e in encodings for place in e.offsets for edge in place), np.int32, 2 * total).reshape(total, 2)
    inside = np.fromiter((number == sequence for e in encodings for number in e.sequence_ids), np.bool_, total)
    found[~inside] = -1
    return found
