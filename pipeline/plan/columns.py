"""Choose the text and label columns of a corpus, and match the classes of its files by their names."""

from dataclasses import dataclass

from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.errors import CorpusError, UsageError
from textsmooth.schemas.shard import reserved_columns
from textsmooth.schemas.task_kinds import task_kind
from textsmooth.schemas.tasks import TEXT_NAMES, Task, find_task
from textsmooth.stages.corpus.column_types import choose_columns, column_list, label_like, late_columns
from textsmooth.stages.corpus.corpus import Corpus
from textsmooth.stages.corpus.source_file import LateColumns, SourceFile


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a run."""

    corpus: Corpus  # with the class names of its files
    text: tuple[str, ...]
    label: str | None
    task: Task | None
    late: LateColumns  # see late_columns
    notes: tuple[str, ...]  # remarks for the user


def find_columns(corpus: Corpus, options: GenerateOptions) -> Columns:
    """Choose the columns. UsageError if they are not clear, or a file has not all of them; CorpusError for an empty corpus."""
    by_file = {file: columns for file in corpus.files if (columns := file.columns())}  # an empty file has no rows
    if not by_file:
        raise CorpusError(f"corpus {corpus.name} is empty: no rows in {', '.join(f.name for f in corpus.files)}")
    for column in options.keep_columns:
        if column in reserved_columns():
            raise UsageError(f"cannot keep column {column!r}: a shard has a column of that name; rename it in the corpus")
    union: dict[str, bool] = {}
    for columns in by_file.values():
        union.update(columns)
    task = _task(corpus, options, union)
    text_option, label_option = (task.text_columns, task.label_column) if task else (options.text_columns, options.label_column)
    if not text_option:
        _check_header(by_file, union)
    text, label = choose_columns(union, text=text_option, label=label_option, keep=options.keep_columns, where=corpus.name)
    for file, columns in by_file.items():
        missing = [c for c in (*text, *options.keep_columns, *([label] if label else [])) if c not in columns]
        if missing:
            raise UsageError(
                f"{file} has no column {missing[0]!r} (it has {column_list(columns)}), other files have; "
                f"{'leave such splits out with --split, or ' if len(corpus.splits) > 1 else ''}add the column, or leave the file out"
            )
    corpus = corpus.with_class_names()
    notes = [_class_order(corpus, column) for column in (label, *options.keep_columns) if column]
    if label is None and (like := label_like(union, text)):
        notes.append(f"no label; columns that look like labels: {column_list(like)}; name one with --label-column")
    return Columns(
        corpus=corpus,
        text=text,
        label=label,
        task=task,
        late=() if task else late_columns(union, text, label, named=bool(options.text_columns)),
        notes=tuple(filter(None, notes)),
    )


def _check_header(by_file: dict[SourceFile, dict[str, bool]], columns: dict[str, bool]) -> None:
    """UsageError for a CSV file whose only column of strings may be text itself: the first row of a file without header."""
    strings = [name for name, holds_text in columns.items() if holds_text]
    file = next((file for file in by_file if file.format.cells_are_text), None)
    if file and len(strings) == 1 and strings[0] not in TEXT_NAMES:
        raise UsageError(
            f"is {strings[0]!r} the header of {file}, or its first row? Name the column of the text with --text-column, or add a header"
        )


def _class_order(corpus: Corpus, column: str) -> str | None:
    """A note on files that number the classes of a column in another way than the dataset."""
    numbers = {file.name: order for file in corpus.files if (order := dict(file.class_numbers).get(column))}
    if not numbers:
        return None
    classes = corpus.class_names[column]
    name, numbering = next(iter(numbers.items()))
    names = ", ".join(classes[number] for number in numbering)
    more = f", and {len(numbers) - 1:,} more files another one" if len(numbers) > 1 else ""
    return f"classes of {column} are matched by name: the dataset has the order {', '.join(classes)}; {name} the order {names}{more}"


def _task(corpus: Corpus, options: GenerateOptions, columns: dict[str, bool]) -> Task | None:
    """The task of the corpus; None if it has none, or if the options choose other columns than the task's."""
    task = find_task(corpus.name, columns)
    if task is None:
        return None
    other_text = options.text_columns and options.text_columns != task.text_columns
    other_label = options.label_column not in (None, task.label_column)
    texts_alone = task_kind(task.label_kind).has_answers and options.text_columns and options.label_column is None
    return None if other_text or other_label or texts_alone else task
