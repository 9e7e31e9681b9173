"""What a unit reports when it ends: its receipt, or why it failed."""

from dataclasses import dataclass, fields
from typing import Any, Self

from textsmooth.schemas.canonical import lean
from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.field_types import Count, Sha256, convert


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be smoothed because of its content."""

    split: str
    row: Count  # position in the split
    file: str  # as Unit.file
    file_row: Count  # position in the file
    error: str  # one line
    values: dict[str, Any] | None = None  # the row's columns; None if they cannot be written as JSON


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The report of a finished unit. The first receipt of a unit counts; a receipt whose shard is missing is ignored."""

    unit: str  # Unit.id
    split: str
    number: Count
    shard: str  # path in the dataset folder
    sha256: Sha256
    bytes: Count
    rows: Count  # of the corpus
    tokens: Count
    entries: Count
    stats: dict[str, Any]  # UnitStats.to_json()
    versions: dict[str, str]
    device: str
    timings: dict[str, float]  # seconds
    windows: Count | None = None  # rows of the shard, where long rows were cut into windows
    skipped: tuple[BadRow, ...] = ()  # rows of the corpus that are not in the shard: --skip-bad-rows
    taken_from: str | None = None  # digest of the earlier dataset that the shard was reused from

    def to_json(self) -> dict[str, Any]:
        return lean(self, ("windows", "skipped", "taken_from"))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read back. DatasetError if a field is missing, unknown, or has no value that it can have."""
        try:
            receipt: Self = convert(value, cls)
        except ValueError as error:
            raise DatasetError(f"a receipt is damaged: {error}") from None
        if other := value.keys() - {field.name for field in fields(cls)}:
            raise DatasetError(f"a receipt is damaged: it has {min(other)}")
        return receipt


@dataclass(frozen=True, kw_only=True)
class UnitFailure:
    """A unit that failed because of its rows, or did not end. The run continues without it."""

    unit: str  # Unit.id
    name: str  # Unit.name
    error: str  # one line
    rows: tuple[BadRow, ...] = ()  # the bad rows, if they are known
    attempts: int = 1
    node: str = ""  # where it was tried last
    works: bool = False  # other rows of the unit worked: the cause is the data, not the set-up
