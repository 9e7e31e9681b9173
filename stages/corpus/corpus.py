"""A corpus: its splits, their files, and the facts known about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.corpus.source_file import SourceFile


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Splits of input files, and what the corpus declares about itself."""

    name: str
    splits: dict[str, tuple[SourceFile, ...]]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column -> names of its integer classes
    license: str | None = None
    revision: str | None = None  # commit, of a corpus on the Hub
    about: dict[str, Any] = field(default_factory=dict)  # see folder.card_facts

    def select(self, splits: tuple[str, ...]) -> "Corpus":
        """The corpus with these splits only, in the corpus's order; all if none is named. UsageError for an unknown split."""
        for split in splits:
            if split not in self.splits:
                raise UsageError(f"corpus {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        chosen = {k: v for k, v in self.splits.items() if not splits or k in splits}
        return replace(self, splits=chosen)

    @property
    def files(self) -> Iterator[SourceFile]:
        for files in self.splits.values():
            yield from files
