"""Rows that cannot be smoothed, for what is in them: which they are, and what is written down of them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.plan import BadRow, CorpusIdentity, Unit
from textsmooth.stages.corpus.reader import Rows

PROBES = 8  # rows that are run alone, to see whether any gets through


def bad_text(rows: Rows, identity: CorpusIdentity) -> Iterator[tuple[int, str]]:
    """Rows whose text is not text, or, of a span task, whose answer is not in its context: position and what is wrong, in order."""
    columns = [name for name in identity.text_columns if not set(map(type, rows[name])) <= {str}]
    spans = identity.label_column if identity.label_kind == "span" else None
    if not columns and spans is None:
        return
    context = rows[identity.text_columns[-1]]
    for index in range(len(context)):
        column = next((name for name in columns if not isinstance(rows[name][index], str)), None)
        if column is not None:
            value = rows[column][index]
            yield index, f"column {column!r} is {'null' if value is None else type(value).__name__}, not text"
        elif spans is not None and (wrong := _wrong_answers(rows[spans][index], context[index])):
            needed = "{text: [strings], answer_start: [their first characters in the context]} is needed, empty lists for no answer"
            yield index, f"column {spans!r} {wrong}; {needed}"


def _wrong_answers(answers: Any, context: str) -> str | None:
    """What is wrong with the answers of a row; None if nothing is."""
    if not isinstance(answers, dict) or set(answers) != {"text", "answer_start"}:
        found = "null" if answers is None else f"{{{', '.join(answers)}}}" if isinstance(answers, dict) else f"a {type(answers).__name__}"
        return f"is {found}"
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return "has not one start for each text"
    for text, at in zip(texts, starts, strict=True):
        if type(text) is not str or type(at) is not int:
            return f"has the answer {text!r} at {at!r}"
        if not 0 <= at <= len(context) or context[at : at + len(text)] != text:
            return f"has the answer {text[:40]!r} at {at}, where its context has {context[max(at, 0) : max(at, 0) + len(text)][:40]!r}"
    return None


def taken(rows: Rows, where: NDArray[np.int64]) -> Rows:
    """The rows at these positions."""
    return {name: [values[i] for i in where] for name, values in rows.items()}


@dataclass(kw_only=True)
class Search:
    """Rows of a unit told apart, by what became of parts of it."""

    bad: dict[int, str] = field(default_factory=dict)  # position in the unit -> error
    works: bool = False  # some row gets through: it is the rows, not the set-up
    unknown: int = 0  # rows that were not told apart


def spread(where: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """At most PROBES of these rows, each alone: the first, the last, and some between."""
    return [where[[i]] for i in np.unique(np.linspace(0, len(where) - 1, min(len(where), PROBES)).astype(int))]


def tell_apart(
    where: NDArray[np.int64], fails: Callable[[NDArray[np.int64]], str | None], *, most: int | None, works: Callable[[], bool]
) -> Search:
    """Find the rows at fault among those at `where`, by halving.

    fails: what some of the rows fail with, None if they get through. most: how many parts that fail are halved further; None: all, until
    every row is told apart. works: asked where no row gets through, whether others do; if not, the search is given up.
    Each row runs at most about as often as `where` can be halved.
    """
    found = Search()
    if not len(where):
        return found
    failing = [where] if fails(where) is not None else []
    found.works = not failing
    if failing and len(where) > 1:
        alone = {int(row[0]): fails(row) for row in spread(where)}
        found.works = None in alone.values()
        if not found.works and not works():
            found.bad, found.unknown = {row: error for row, error in alone.items() if error}, len(where) - len(alone)
            return found
        found.works = True
    while failing:
        parts = failing if len(failing[0]) == 1 else [half for whole in failing for half in np.array_split(whole, 2)]
        errors = [fails(part) for part in parts]
        found.bad |= {int(part[0]): error for part, error in zip(parts, errors, strict=True) if error and len(part) == 1}
        failing = [part for part, error in zip(parts, errors, strict=True) if error and len(part) > 1]
        found.unknown += sum(map(len, failing[most:])) if most is not None else 0
        failing = failing[:most]
    return found


def bad_row(unit: Unit, rows: Rows, index: int, error: str) -> BadRow:
    """What is written down of a row of a unit."""
    values: dict[str, Any] | None = {name: found[index] for name, found in rows.items()}
    try:
        json.dumps(values, allow_nan=False).encode()
    except (ValueError, TypeError):
        values = None
    return BadRow(
        split=unit.split, row=unit.row + index, file=unit.file, file_row=unit.start + index, error=" ".join(error.split()), values=values
    )
