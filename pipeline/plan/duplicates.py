"""Count the rows of a split whose text is in the training split too: on these a student is scored on what it has learned."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.tasks import TRAIN_SPLIT


class RowTexts:
    """Hashes of the texts of all rows, 8 bytes each, by split; rows without text are left out."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._hashes: dict[str, list[NDArray[np.int64]]] = {}

    def add(self, split: str, rows: dict[str, list[Any]]) -> None:
        """The next rows of a split, column -> values."""
        texts = zip(*(rows[name] for name in self._columns), strict=True)
        # Python's own: a tenth of the time of a digest, good within one process. A value that is no text is refused or left out elsewhere.
        hashes = [hash(row) for row in texts if any(row) and all(isinstance(text, str) for text in row)]
        self._hashes.setdefault(split, []).append(np.array(hashes, np.int64))

    def warnings(self) -> list[str]:
        """A line for each split that shares rows with the training split. UsageError if all rows of one are there."""
        hashes = {split: np.concatenate(parts) for split, parts in self._hashes.items()}
        train = np.unique(hashes.pop(TRAIN_SPLIT, np.zeros(0, np.int64)))
        lines = []
        for split, own in hashes.items():
            shared = int(np.isin(own, train).sum())
            if shared and shared == len(own):
                raise UsageError(
                    f"every row of {split} is in {TRAIN_SPLIT} too: students would be scored on what they have learned; give other rows, "
                    "or choose one split with --split"
                )
            if shared:
                lines.append(
                    f"{shared:,} of {len(own):,} rows of {split} ({shared / len(own):.1%}) have the text of a row of {TRAIN_SPLIT}"
                )
        return lines
