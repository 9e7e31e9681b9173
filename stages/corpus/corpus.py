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
        """The corpus with these splits only, in the corpus's order; all if none is named. UsageError for an unknown
        split, and for a file that is in two of them."""
        for split in splits:
            if split not in self.splits:
                raise UsageError(f"corpus {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        chosen = {k: v for k, v in self.splits.items() if not splits or k in splits}
        split_of: dict[str, str] = {}
        for split, files in chosen.items():
            for name in map(str, files):
                if split_of.setdefault(name, split) != split:
                    raise UsageError(f"{name} is read as {split_of[name]} and as {split}: rename it, or choose one split with --split")
        return replace(self, splits=chosen)

    def with_class_names(self) -> "Corpus":
        """The corpus with the class names of its files, matched by name; its own come first, then those of the files in their order.

        A file that numbers its classes in another way gets `class_numbers`. CorpusError if the metadata of a file is damaged.
        """
        classes = dict(self.class_names)
        by_file = {file: file.class_names() for file in self.files}
        for columns in by_file.values():
            for column, names in columns.items():
                known = classes.get(column, ())
                classes[column] = (*known, *(name for name in names if name not in known))

        def matched(file: SourceFile) -> SourceFile:
            numbers = {column: tuple(map(classes[column].index, names)) for column, names in by_file[file].items()}
            other = tuple((column, order) for column, order in numbers.items() if order != tuple(range(len(order))))
            return replace(file, class_numbers=other)

        return replace(self, splits={split: tuple(map(matched, files)) for split, files in self.splits.items()}, class_names=classes)

    @property
    def files(self) -> Iterator[SourceFile]:
        for files in self.splits.values():
            yield from files
