"""Load the tokenizer in a model's folder."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from textsmooth.schemas.errors import TeacherError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer in a model's folder, from tokenizer.json or from older files that transformers can convert.

    Raises TeacherError, which names what is missing.
    """
    from transformers import AutoTokenizer

    if missing := _missing(folder):
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
    """What a folder without tokenizer.json is missing; None if transformers can build a tokenizer from its files."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" in names:
        return None
    pieces = sorted(name for name in names if name.endswith(".model"))
    packages = [name for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")) if not _importable(module)]
    if pieces and packages:
        return f"to read its {pieces[0]}, pip install {' '.join(packages)}; or save its tokenizer.json there"
    if "vocab.json" in names and "merges.txt" not in names:
        return "it has vocab.json, but no merges.txt beside it"
    if not pieces and not names & {"vocab.json", "vocab.txt"}:
        return "it has no tokenizer.json, nor vocab.txt, vocab.json with merges.txt, or a sentencepiece *.model"
    return None


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False
