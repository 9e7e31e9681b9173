"""What a column holds over all rows of a corpus, and the one Arrow type it is kept as.

Cells of CSV files are strings. A cell that is a number in JSON's grammar counts as one where all cells of the column do; an empty cell
is null.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textsmooth.schemas.errors import CorpusError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CLASSES = 65536  # different strings in a label column
DEEPEST = 16  # lists and structs in one another
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
NO_VALUE = "numbers, strings, booleans, and lists and structs of them can be kept; leave the column out, or write it as strings"
NAMES = {int: "int64", float: "float64", str: "string", bool: "bool"}


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

    names: different strings, of a label column; cells of CSV files that are numbers among them.
    """

    def __init__(self, column: str, *, label: bool = False) -> None:
        self.column, self.label = column, label
        self.names: set[str] = set()
        self.lowest = self.highest = (0, "")  # integer, and where
        self.endless: str | None = None  # where an infinite float is
        self._types: set[type] = set()
        self._cells: set[type] = set()
        self._nested: pa.DataType | None = None

    def add(self, values: Sequence[Any], where: str, start: int, *, cells: bool = False) -> None:
        """Take in the values of rows `start` … of a file `where`. CorpusError for one that no column can hold."""
        kinds = set(map(type, values)) - {type(None)}
        if cells and str not in self._cells:
            self._cells |= {found for cell in set(values) if (found := cell_type(cell))}
        if not cells:
            self._types |= kinds
        if self.label and str in kinds:
            self._name(values, cells)
        if cells:
            if int in self._cells and str not in self._cells:
                self._range([int(cell) if cell_type(cell) is int else None for cell in values], where, start)
            return
        if int in kinds:
            self._range([value if isinstance(value, int) else None for value in values], where, start)
        if self.endless is None and float in kinds and (math.inf in values or -math.inf in values):
            self.endless = f"row {start + next(i for i, v in enumerate(values) if isinstance(v, float) and math.isinf(v))} of {where}"
        strange = kinds - {*NAMES, list, dict}
        if strange:
            row, kind = next((start + i, type(value).__name__) for i, value in enumerate(values) if type(value) in strange)
            raise CorpusError(f"row {row} of {where}: column {self.column!r} holds a {kind}: {NO_VALUE}")
        if not kinds <= set(NAMES):
            self._nested = self._merged(values, where, start)

    def _name(self, values: Sequence[Any], cells: bool) -> None:
        if len(self.names) <= MOST_CLASSES:  # numbers of CSV files may be more
            self.names.update(value for value in values if type(value) is str and not (cells and not value))
        if len(self.names) > MOST_CLASSES and str in self.types:
            raise CorpusError(f"label column {self.column!r} has more than {MOST_CLASSES} different strings: those are no classes")

    def _range(self, values: list[int | None], where: str, start: int) -> None:
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
        import pyarrow as pa

        try:
            here = pa.array(values).type
            if self._nested is None:
                return here
            both = [pa.schema([pa.field(self.column, kind)]) for kind in (self._nested, here)]
            return pa.unify_schemas(both, promote_options="permissive").field(0).type
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise CorpusError(
                f"column {self.column!r}, in rows {start}..{start + len(values)} of {where}, holds values of no one type: "
                f"{first_line(error)}; leave it out of --keep-columns"
            ) from None

    @property
    def types(self) -> set[type]:
        """The types of the values that are not null; of cells, the one that all of them are."""
        if not self._cells:
            return self._types
        cells = next(kind for kind in (str, float, int) if kind in self._cells)
        return self._types | {str if str in self._types else cells}

    def classes(self, corpus: str) -> tuple[str, ...]:
        """The names of the classes of a label column of strings. CorpusError for a -1 among words: it is how files say `no label`."""
        if "-1" in self.names and not all(map(_is_number, self.names)):
            raise CorpusError(
                f"label column {self.column!r} of {corpus} has '-1' beside words: write null (in CSV an empty cell) for no label, "
                "or give the class a name"
            )
        return tuple(sorted(self.names))

    def kept(self, corpus: str) -> str:
        """The type as CorpusIdentity.keep_types has it. CorpusError if there is none for all values."""
        kinds = self.types
        if kinds <= {int, float} and float in kinds:
            if max(-self.lowest[0], self.highest[0]) > 2**53:
                raise CorpusError(f"column {self.column!r} of {corpus} holds floats, and integers too large for them; write all as strings")
            return NAMES[float]
        if len(kinds) == 1 and kinds <= {list, dict} and self._nested is not None:
            return json.dumps(_to_json(self._nested, self.column, corpus), sort_keys=True)
        if len(kinds) > 1 or not kinds <= set(NAMES):
            found = " and ".join(sorted(kind.__name__ for kind in kinds))
            raise CorpusError(f"column {self.column!r} of {corpus} holds {found}, one of them is needed: {NO_VALUE}")
        return NAMES[next(iter(kinds), str)]


def _to_json(kind: "pa.DataType", column: str, corpus: str, depth: int = 0) -> Any:
    """A type in words of JSON: "int64", ["string"] for a list, {"start": "int64"} for a struct."""
    import pyarrow as pa

    if depth > DEEPEST:
        raise CorpusError(f"column {column!r} of {corpus} is nested deeper than {DEEPEST}: leave it out of --keep-columns")
    if pa.types.is_list(kind):
        return [_to_json(kind.value_type, column, corpus, depth + 1)]
    if pa.types.is_struct(kind) and kind.num_fields:
        return {field.name: _to_json(field.type, column, corpus, depth + 1) for field in kind}
    words = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string", pa.bool_(): "bool", pa.null(): "string"}
    if kind not in words:
        raise CorpusError(f"column {column!r} of {corpus} holds {kind}: {NO_VALUE}")
    return words[kind]


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
    """Cells as labels: numbers of kind `value`; of kind `class`, its names, and the numbers of classes; an empty one is null."""
    if kind == "value":
        return typed(cells, "float64")
    known = set(names or ())
    return [(cell if cell in known else int(cell)) if cell else None for cell in cells]
