"""Text to tokens, as flat arrays, and the identity of a tokenizer.

Legend: R rows, N tokens.
"""

import json
from dataclasses import dataclass
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

    row_offsets: NDArray[np.int64]  # [R + 1]
    input_ids: NDArray[np.unsignedinteger]  # [N]
    token_type_ids: NDArray[np.uint8] | None  # [N]
    special: NDArray[np.bool_]  # [N] put there by the tokenizer, not by the text
    truncated: int  # rows that were longer than max_length

    def __len__(self) -> int:
        return len(self.row_offsets) - 1


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer in a model's folder. TeacherError if there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise TeacherError(f"cannot load a tokenizer from {folder}: {first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise TeacherError(f"{folder} has no fast tokenizer; save one there first (it needs a tokenizer.json)")
    if len(tokenizer) < 10 or (tokenizer.cls_token_id is None and tokenizer.bos_token_id is None):
        raise TeacherError(f"{folder} has no usable tokenizer; save the model's tokenizer there (tokenizer.json)")
    return tokenizer


def vocab_digest(tokenizer: Any) -> str:
    """sha256 over the token -> id map: what teacher and student must share."""
    return digest(sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])))


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 over everything that turns text into ids: the map, normalizer, splitting, template."""
    value = json.loads(tokenizer.backend_tokenizer.to_str())
    value["truncation"] = value["padding"] = None  # set per call
    return digest({"tokenizer": value, "token_types": makes_token_types(tokenizer)})


def makes_token_types(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """The ids of the special tokens that models know by name."""
    return {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask", "unk")}


def tokenize(tokenizer: Any, texts: list[str], pairs: list[str] | None, *, max_length: int, vocab_size: int) -> TokenRows:
    """Tokenize R texts, or R pairs of texts, with specials; rows over max_length lose tokens from the longer text.

    max_length: tokens, specials included. ValueError if an id does not fit a vocabulary of vocab_size.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, strategy="longest_first")
    encodings = backend.encode_batch(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    lengths = np.fromiter((len(e) for e in encodings), np.int64, len(encodings))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])

    def flat(name: str, dtype: Any) -> NDArray[Any]:
        return np.fromiter((value for e in encodings for value in getattr(e, name)), dtype, total)

    ids = flat("ids", np.int64)
    if total and int(ids.max()) >= vocab_size:
        raise ValueError(f"token id {ids.max()} does not fit the teacher's vocabulary of {vocab_size}")
    return TokenRows(
        row_offsets=offsets,
        input_ids=ids.astype(id_dtype(vocab_size)),
        token_type_ids=flat("type_ids", np.uint8) if makes_token_types(tokenizer) else None,
        special=flat("special_tokens_mask", np.bool_),
        truncated=sum(1 for e in encodings if e.overflowing),
    )
