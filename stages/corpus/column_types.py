"""Choose the text and label columns of a corpus, and find the one Arrow type of each label and kept column.

Cells of CSV files are strings. A cell that is a number in JSON's grammar counts as one if all cells of the column do; an empty cell
is null.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
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
LABEL_NAMES = (  # of columns that often hold labels
    *("category", "class", "emotion", "gold", "intent", "polarity", "rating", "score"),
    *("sentiment", "star", "target", "topic", "toxicity"),
)
TYPE_NAMES = {int: "int64", float: "float64", str: "string", bool: "bool"}


def choose_columns(
    is_text: dict[str, bool], *, text: tuple[str, ...], label: str | None, keep: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], str | None]:
    """The text columns (one, or a pair) and the label column of a corpus, by name. UsageError lists the columns there are.

    is_text: whether each column holds text. text, label, keep: the columns that are requested by name. where: the corpus, for messages.
    """
    for column in (*text, *keep, *([label] if label else [])):
        if column not in is_text:
            similar = next((f"; is it {name!r}?" for name in is_text if _plain(name) == _plain(column)), "")
            raise UsageError(f"{where} has no column {column!r}; it has {column_list(is_text)}{similar}")
    text = text or next((names for names in TEXT_COLUMNS if all(is_text.get(name) for name in names)), ())
    if not text:
        raise UsageError(f"which column of {where} is the text? It has {_with_strings(is_text)}; name one or two with --text-column")
    if label is None and LABEL_COLUMN in is_text and LABEL_COLUMN not in text:
        label = LABEL_COLUMN
    return text, label


def column_list(names: Iterable[str]) -> str:
    """Names of columns for a message: in quotes where a name has spaces or characters that are not visible."""
    return ", ".join(name if name.isprintable() and " " not in name else repr(name) for name in names) or "none"


def _with_strings(is_text: dict[str, bool]) -> str:
    """The columns of a corpus, and which of them are strings, if it is not all."""
    strings = column_list(name for name, holds_text in is_text.items() if holds_text)
    return column_list(is_text) if all(is_text.values()) else f"{column_list(is_text)} (strings: {strings})"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def label_like(columns: Iterable[str], text: tuple[str, ...]) -> list[str]:
    """Columns whose names say that they may hold labels: `Label `, `labels`, `sentiment`, `is_toxic`."""
    looks = re.compile(r"is[_ -].+|.*labels?|y|(" + "|".join(LABEL_NAMES) + ")s?", re.DOTALL)
    return [name for name in columns if name not in text and looks.fullmatch(name.strip().casefold())]


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


def _unsupported(value: Any) -> str | None:
    """The type of the first value, in lists and structs too, that cannot be kept; None if all can."""
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return next((kind for kind in map(_unsupported, inner) if kind), None)
    if type(value) is tuple:
        return "map"  # an Arrow map: a list of pairs
    return None if value is None or type(value) in TYPE_NAMES else type(value).__name__


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _number(value: Any) -> int | float | None:
    """A number, or the number in a CSV cell; None for any other value, and for NaN and infinity."""
    if isinstance(value, str):
        kind = cell_type(value)
        return None if kind is None or kind is str else kind(value)
    return value if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else None


class ColumnKind:
    """The types and extremes of a column's values, gathered range by range.

    A `place` is a row and its file, for messages. places: of the first value of each type. names: different strings of a label column,
    numbers in CSV cells included, and their first places. fraction: the first number of a label column that is not whole.
    """

    def __init__(self, column: str, *, label: bool = False) -> None:
        self.column, self.label = column, label
        self.names: dict[str, str] = {}
        self.places: dict[type, str] = {}
        self.lowest = self.highest = (0, "")  # a whole number, and its place; floats only of a label column
        self.fraction: str | None = None
        self.endless: str | None = None  # place of an infinite float
        self._types: set[type] = set()
        self._cell_types: set[type] = set()
        self._nested: pa.DataType | None = None

    def add(self, values: Sequence[Any], where: str, start: int, *, cells: bool = False) -> None:
        """Add the values of rows `start` … of a file `where`. CorpusError for a value that no column can hold.

        cells: the values are the text of cells, whose type is to be found.
        """

        def place(index: int) -> str:
            return f"row {start + index} of {where}"

        types = set(map(type, values)) - {type(None)}
        if cells:
            if str not in self._cell_types:
                self._cell_types |= {kind for cell in set(values) if (kind := cell_type(cell))}
            for kind in self._cell_types - self.places.keys():
                self.places[kind] = place(next(i for i, cell in enumerate(values) if cell_type(cell) is kind))
        else:
            self._types |= types
            for kind in types - self.places.keys():
                self.places[kind] = place(next(i for i, value in enumerate(values) if type(value) is kind))
        if self.label and str in types:
            self._add_names(values, place, cells=cells)
        if (int in self._cell_types and str not in self._cell_types) if cells else (int in types):
            self._add_range([number if isinstance(number := _number(value), int) else None for value in values], place)
        if self.label and (float in self._cell_types and str not in self._cell_types if cells else float in types):
            self._add_floats([number if isinstance(number := _number(value), float) else None for value in values], place)
        if cells:
            return
        if self.endless is None and float in types and (math.inf in values or -math.inf in values):
            self.endless = place(next(i for i, v in enumerate(values) if isinstance(v, float) and math.isinf(v)))
        if not types <= set(TYPE_NAMES):
            self._add_nested(values, place, where, start)

    def _add_names(self, values: Sequence[Any], place: Callable[[int], str], *, cells: bool) -> None:
        if len(self.names) <= MOST_CLASSES:  # there may be more numbers in CSV cells
            for index, value in enumerate(values):
                if type(value) is str and value not in self.names and not (cells and not value):
                    self.names[value] = place(index)
        if len(self.names) > MOST_CLASSES and str in self.types:
            raise CorpusError(
                f"label column {self.column!r} has more than {MOST_CLASSES} different strings, too many for classes; give another "
                "--label-column"
            )

    def _add_range(self, values: list[int | None], place: Callable[[int], str]) -> None:
        numbers = [value for value in values if value is not None]
        low, high = min(numbers, default=0), max(numbers, default=0)
        for value in (low, high):
            if not -(2**63) <= value < 2**63:
                digits = str(value) if abs(value) < 10**40 else f"{str(value)[:20]}…"
                raise CorpusError(
                    f"{place(values.index(value))}: column {self.column!r} is {digits}, more than 64 bits hold; write it as a string"
                )
        if low < self.lowest[0]:
            self.lowest = low, place(values.index(low))
        if high > self.highest[0]:
            self.highest = high, place(values.index(high))

    def _add_floats(self, values: list[float | None], place: Callable[[int], str]) -> None:
        """The range of whole floats, or the first that is not whole (or too large to be the number of a class)."""
        whole = [int(value) if value is not None and value.is_integer() and abs(value) < 2**53 else None for value in values]
        self._add_range(whole, place)
        if self.fraction is None:
            index = next((i for i, value in enumerate(values) if value is not None and whole[i] is None), None)
            self.fraction = None if index is None else f"{values[index]} in {place(index)}"

    def _add_nested(self, values: Sequence[Any], place: Callable[[int], str], where: str, start: int) -> None:
        """Add values that are lists or structs. CorpusError for the first that holds a value that cannot be kept."""
        for index, value in enumerate(values):
            kind = _unsupported(value)
            if kind:
                advice = "numbers, strings or booleans are needed" if self.label else NO_VALUE
                raise CorpusError(f"{place(index)}: column {self.column!r} holds a {kind}: {advice}")
        self._nested = self._merged(values, where, start)

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

    def mixture(self, needed: str) -> str:
        """The types, what is needed instead, and the place of the first value of each type if there are several."""
        types = {kind.__name__: self.places[kind] for kind in sorted(self.types, key=lambda kind: kind.__name__)}
        places = "; " + ", ".join(f"{name} in {place}" for name, place in types.items()) if len(types) > 1 else ""
        return f"holds {' and '.join(types)}{needed}{places}"

    def classes(self, corpus: str) -> tuple[str, ...]:
        """The class names of a label column of strings, sorted. CorpusError for a -1 among words: files write -1 for `no label`."""
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
            raise CorpusError(f"column {self.column!r} of {corpus} {self.mixture(f', one type is needed: {NO_VALUE}')}")
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
