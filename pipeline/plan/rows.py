"""Columns that are read from a corpus, their types, and a check that the text is text."""

from collections.abc import Iterator
from typing import Any

from textsmooth.schemas.errors import CorpusError
from textsmooth.schemas.plan import CorpusIdentity
from textsmooth.schemas.task_kinds import LabelColumn, task_kind
from textsmooth.schemas.tasks import ID_COLUMN
from textsmooth.stages.corpus.column_types import typed
from textsmooth.stages.corpus.reader import Rows
from textsmooth.stages.corpus.source_file import SourceFile


def row_columns(identity: CorpusIdentity) -> tuple[str, ...]:
    """The columns read from the corpus, each once."""
    label = (identity.label_column,) if identity.label_column else ()
    name = (ID_COLUMN,) if task_kind(identity.label_kind).has_answers else ()
    return tuple(dict.fromkeys((*identity.text_columns, *label, *name, *identity.keep_columns)))


def typed_rows(rows: Rows, identity: CorpusIdentity, file: SourceFile) -> Rows:
    """Rows with labels and kept columns in the types of the plan: the cells of a CSV file are strings."""
    if not file.format.cells_are_text:
        return rows
    kept = dict(zip(identity.keep_columns, identity.keep_types, strict=True))
    columns = {name: typed(rows[name], kind) for name, kind in kept.items() if name not in identity.text_columns}
    label, kind = identity.label_column, task_kind(identity.label_kind)
    if label is not None and isinstance(kind, LabelColumn) and label not in (*identity.text_columns, *columns):
        columns[label] = kind.from_cells(rows[label], identity.label_names)
    return {**rows, **columns}


def check_text(rows: Rows, identity: CorpusIdentity, file: SourceFile, start: int) -> None:
    """CorpusError for the first row whose text is not text; of a span task, whose answer is not in its context."""
    for index, why in bad_text(rows, identity):
        advice = "" if "is needed" in why else "; leave such rows out (--skip-bad-rows), or write them as text"
        raise CorpusError(f"row {start + index} of {file}: {why}{advice}")


def bad_text(rows: Rows, identity: CorpusIdentity) -> Iterator[tuple[int, str]]:
    """Rows whose text is not text, or, of a span task, whose answer is not in its context: position and what is wrong, in order."""
    columns = [name for name in identity.text_columns if not set(map(type, rows[name])) <= {str}]
    answers = identity.label_column if task_kind(identity.label_kind).has_answers else None
    if not columns and answers is None:
        return
    context = rows[identity.text_columns[-1]]
    for index in range(len(context)):
        column = next((name for name in columns if not isinstance(rows[name][index], str)), None)
        if column is not None:
            value = rows[column][index]
            yield index, f"column {column!r} is {'null' if value is None else type(value).__name__}, not text"
        elif answers is not None and (wrong := _wrong_answers(rows[answers][index], context[index])):
            needed = "{text: [strings], answer_start: [their first characters in the context]} is needed, empty lists for no answer"
            yield index, f"column {answers!r} {wrong}; {needed}"


def _wrong_answers(answers: Any, context: str) -> str | None:
    """What is wrong with the answers of a row; None if nothing is."""
    if not isinstance(answers, dict) or set(answers) != {"text", "answer_start"}:
        value = "null" if answers is None else f"{{{', '.join(answers)}}}" if isinstance(answers, dict) else f"a {type(answers).__name__}"
        return f"is {value}"
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return "has not one start for each text"
    for text, at in zip(texts, starts, strict=True):
        if type(text) is not str or type(at) is not int:
            return f"has the answer {text!r} at {at!r}"
        if not 0 <= at <= len(context) or context[at : at + len(text)] != text:
            return f"has the answer {text[:40]!r} at {at}, where its context has {context[max(at, 0) : max(at, 0) + len(text)][:40]!r}"
    return None
