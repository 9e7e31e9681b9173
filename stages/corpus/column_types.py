"""Choose the text and label columns of a corpus, and find the one Arrow type of each label and kept column.

Cells of CSV files are strings. A cell that is a number in JSON's grammar counts as one if all cells of the column do; an empty cell
is null.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.errors import CorpusError, UsageError, first_line
from textsmooth.schemas.tasks import LABEL_COLUMN, MOST_CLASSES, TEXT_COLUMNS
from textsmooth.stages.corpus.source_file import LateColumns

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DEPTH = 16  # of lists and structs inside each other
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
NO_VALUE = "numbers, strings, booleans, and lists and structs of them can be kept; leave the column out, or write it as strings"
TYPE_NAMES = {int: "int64", float: "float64", str: "string", bool: "bool"}


def choose_columns(
    is_text: dict[str, bool], *, text: tuple[str, ...], label: str | None, keep: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], str | None]:
    """The text columns (one, or a pair) and the label column of a corpus. UsageError lists the columns there are.

    is_text: whether each column holds text. text, label, keep: the columns that are requested by name. where: the corpus, for messages.
    """
    listing = ", ".join(is_text) or "none"
    for column in (*text, *keep, *([label] if label else [])):
        if column not in is_text:
            raise UsageError(f"{where} has no column {column!r}; it has {listing}")
    if not text:
        text = next((known for known in TEXT_COLUMNS if all(is_text.get(c) for c in known)), ())
    if not text:
        strings = [column for column, holds_text in is_text.items() if holds_text]
        if len(strings) != 1:
            raise UsageError(f"which column of {where} is the text? It has {listing}; name one or two with --text-column")
        text = (strings[0],)
    if label is None and LABEL_COLUMN in is_text and LABEL_COLUMN not in text:
        label = LABEL_COLUMN
    return text, label


def late_columns(present: Iterable[str], text: tuple[str, ...], label: str | None, *, named: bool) -> LateColumns:
    """Groups of columns that are not present, and would have changed the choice of text and label. named: the text was named."""
    preferred = TEXT_COLUMNS[: TEXT_COLUMNS.index(text)] if text in TEXT_COLUMNS else TEXT_COLUMNS
    groups = [*(() if named else preferred), *(() if label else [(LABEL_COLUMN,)])]
    absent = (tuple(column for column in group if column not in present) for group in groups)
    return tuple(group for group in absent if group)


def cell_type(cell: str) -> type | None:
    """int, float or str; None for an empty cell. Integers of more than 18 digits are strings: they may not fit 64 bits."""
    if not cell:
        return None
    if INTEGER.fullmatch(cell):
        return int
    return float if NUMBER.fullmatch(cell) and math.isfinite(float(cell)) else str


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


class ColumnKind:
    """The types and extremes of a column's values, gathered range by range.

    names: different strings of a label column, numbers in CSV cells included.
    """

    def __init__(self, column: str, *, label: bool = False) -> None:
        self.column, self.label = column, label
        self.names: set[str] = set()
        self.lowest = self.highest = (0, "")  # an integer, and its row and file
        self.endless: str | None = None  # row and file of an infinite float
        self._types: set[type] = set()
        self._cell_types: set[type] = set()
        self._nested: pa.DataType | None = None

    def add(self, values: Sequence[Any], where: str, start: int, *, cells: bool = False) -> None:
        """Add the values of rows `start` … of a file `where`. CorpusError for a value that no column can hold.

        cells: the values are the text of cells, whose type is to be found.
        """
        types = set(map(type, values)) - {type(None)}
        if cells and str not in self._cell_types:
            self._cell_types |= {found for cell in set(values) if (found := cell_type(cell))}
        if not cells:
            self._types |= types
        if self.label and str in types:
            self._add_names(values, cells)
        if cells:
            if int in self._cell_types and str not in self._cell_types:
                self._add_range([int(cell) if cell_type(cell) is int else None for cell in values], where, start)
            return
        if int in types:
            self._add_range([value if isinstance(value, int) else None for value in values], where, start)
        if self.endless is None and float in types and (math.inf in values or -math.inf in values):
            self.endless = f"row {start + next(i for i, v in enumerate(values) if isinstance(v, float) and math.isinf(v))} of {where}"
        unsupported = types - {*TYPE_NAMES, list, dict}
        if unsupported:
            row, name = next((start + i, type(value).__name__) for i, value in enumerate(values) if type(value) in unsupported)
            raise CorpusError(f"row {row} of {where}: column {self.column!r} holds a {name}: {NO_VALUE}")
        if not types <= set(TYPE_NAMES):
            self._nested = self._merged(values, where, start)

    def _add_names(self, values: Sequence[Any], cells: bool) -> None:
        if len(self.names) <= MOST_CLASSES:  # there may be more numbers in CSV cells
            self.names.update(value for value in values if type(value) is str and not (cells and not value))
        if len(self.names) > MOST_CLASSES and str in self.types:
            raise CorpusError(
                f"label column {self.column!r} has more than {MOST_CLASSES} different strings, too many for classes; give another "
                "--label-column"
            )

    def _add_range(self, values: list[int | None], where: str, start: int) -> None:
        numbers = [value for value in values if value is not None]
        low, high = min(numbers, default=0), max(numbers, default=0)
        for value in (low, high):
            if not -(2**63) <= value < 2**63:
                row = start + values.index(value)
                raise CorpusError(f"row {row} of {where}: column {self.column!r} is {value}, more than 64 bits hold; write it as a string")
        if low < self.lowest[0]:
            self.lowest = low, f"row {start + values.index(low)} of {where}"
        if high > self.highest[0]:
            self.highest = high, f"row {start + values.index(high)} of {where}"

    def _merged(self, values: Sequence[Any], where: str, start: int) -> "pa.DataType":
        """The type of all nested values so far, these included."""
        import pyarrow as pa

        try:
            added = pa.array(values).type
            if self._nested is None:
                return added
            both = [pa.schema([pa.field(self.column, type_)]) for type_ in (self._nested, added)]
            return pa.unify_schemas(both, promote_options="permissive").field(0).type
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise CorpusError(
                f"column {self.column!r}, in rows {start}..{start + len(values)} of {where}, holds values of different types: "
                f"{first_line(error)}; leave it out of --keep-columns"
            ) from None

    @property
    def types(self) -> set[type]:
        """The types of the values that are not null; of cells, the one type that fits them all."""
        if not self._cell_types:
            return self._types
        cells = next(kind for kind in (str, float, int) if kind in self._cell_types)
        return self._types | {str if str in self._types else cells}

    def classes(self, corpus: str) -> tuple[str, ...]:
        """The class names of a label column of strings. CorpusError for a -1 among words: files write -1 for `no label`."""
        if "-1" in self.names and not all(map(_is_number, self.names)):
            raise CorpusError(
                f"label column {self.column!r} of {corpus} has '-1' beside words: write null (in CSV an empty cell) for no label, "
                "or give the class a name"
            )
        return tuple(sorted(self.names))

    def kept(self, corpus: str) -> str:
        """The type of a kept column, as an entry of CorpusIdentity.keep_types. CorpusError if no type fits all values."""
        types = self.types
        if types <= {int, float} and float in types:
            if max(-self.lowest[0], self.highest[0]) > 2**53:
                raise CorpusError(f"column {self.column!r} of {corpus} holds floats, and integers too large for them; write all as strings")
            return TYPE_NAMES[float]
        if len(types) == 1 and types <= {list, dict} and self._nested is not None:
            return json.dumps(_type_to_json(self._nested, self.column, corpus), sort_keys=True)
        if len(types) > 1 or not types <= set(TYPE_NAMES):
            listed = " and ".join(sorted(kind.__name__ for kind in types))
            raise CorpusError(f"column {self.column!r} of {corpus} holds {listed}, one type is needed: {NO_VALUE}")
        return TYPE_NAMES[next(iter(types), str)]


def _type_to_json(arrow: "pa.DataType", column: str, corpus: str, depth: int = 0) -> Any:
    """An Arrow type as JSON: "int64", ["string"] for a list, {"start": "int64"} for a struct."""
    import pyarrow as pa

    if depth > MAX_DEPTH:
        raise CorpusError(f"column {column!r} of {corpus} is nested deeper than {MAX_DEPTH}: leave it out of --keep-columns")
    if pa.types.is_list(arrow):
        return [_type_to_json(arrow.value_type, column, corpus, depth + 1)]
    if pa.types.is_struct(arrow) and arrow.num_fields:
        return {field.name: _type_to_json(field.type, column, corpus, depth + 1) for field in arrow}
    names = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string", pa.bool_(): "bool", pa.null(): "string"}
    if arrow not in names:
        raise CorpusError(f"column {column!r} of {corpus} holds {arrow}: {NO_VALUE}")
    return names[arrow]


def arrow_type(kept: str) -> "pa.DataType":
    """The Arrow type of an entry of CorpusIdentity.keep_types. Fields of structs are in the order of their names."""
    import pyarrow as pa

    def of(value: Any) -> "pa.DataType":
        if isinstance(value, list):
            return pa.list_(of(value[0]))
        if isinstance(value, dict):
            return pa.struct([pa.field(name, of(inner)) for name, inner in sorted(value.items())])
        return {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}[value]

    return of(json.loads(kept) if kept[:1] in "[{" else kept)


def typed(cells: Sequence[str], kept: str) -> list[Any]:
    """Cells as values of a type of CorpusIdentity.keep_types; an empty one is null."""
    convert = {"int64": int, "float64": float}.get(kept, str)
    return [convert(cell) if cell else None for cell in cells]


def typed_labels(cells: Sequence[str], kind: str, names: Sequence[str] | None) -> list[Any]:
    """Cells as labels: numbers of kind `value`; of kind `class`, class names, and the numbers of classes; an empty one is null."""
    if kind == "value":
        return typed(cells, "float64")
    known = set(names or ())
    return [(cell if cell in known else int(cell)) if cell else None for cell in cells]
