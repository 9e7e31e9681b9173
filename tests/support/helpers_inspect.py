"""What tests of several areas look at datasets with."""

from pathlib import Path
from typing import Any

from textsmooth.pipeline.inspect.rows import SmoothedRow, SmoothedRows


def read_row(dataset: Path | str, row: int, split: str | None = None, window: int = 0, **options: Any) -> SmoothedRow:
    """One row of a dataset, as text."""
    return SmoothedRows(dataset, split, **options).row(row, window)
