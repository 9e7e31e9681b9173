"""The demo corpus and the demo teacher: small, made for this project, and installed with it."""

from pathlib import Path

__all__ = ["corpus_folder", "teacher_folder"]

_HERE = Path(__file__).resolve().parent


def corpus_folder() -> Path:
    """Return the folder of the demo corpus, laid out so that `datasets.load_dataset` reads it."""
    return _HERE / "corpus"


def teacher_folder() -> Path:
    """Return the folder of the demo teacher, a small masked language model with its tokenizer."""
    return _HERE / "teacher"
