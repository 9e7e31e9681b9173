"""What was found wrong, and where: the first place of each kind, and how many more there are.

Legend: R rows, N tokens, M some of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.printable import printable

Say = Callable[[int], str]  # what is wrong, by the number of a row or token


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a file of a dataset."""

    path: str  # in the dataset
    what: str  # one line
    row: int | None = None  # of the split, as column `row` has it
    token: int | None = None  # of that row, or of its window
    window: int | None = None
    more: int = 0  # further rows or tokens of this file of which the same is true
    altered: bool = False  # the file is missing, or its bytes are not those of the manifest: it may be had again
    remedy: str = ""  # what to do about it, where no general advice fits

    def __str__(self) -> str:
        numbers = (("row", self.row), ("window", self.window), ("token", self.token))
        where = "".join(f", {name} {number:,}" for name, number in numbers if number is not None)
        more = f" (and {self.more:,} more {'rows' if self.token is None else 'tokens'} like it)" if self.more else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return printable(f"{self.path}{where}: {self.what}{more}{remedy}")

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "row": self.row,
            "window": self.window,
            "token": self.token,
            "what": self.what,
            "more": self.more,
            "altered": self.altered,
            "remedy": self.remedy,
        }


@dataclass(kw_only=True)
class Tally:
    """The findings of one file: of each kind the first, with how many more there are."""

    path: str
    _found: dict[str, Finding] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        return list(self._found.values())

    def file(self, what: str) -> None:
        """Something is wrong with the file as a whole."""
        self.add(what, Finding(path=self.path, what=what), 1)

    def add(self, kind: str, first: Finding, count: int) -> None:
        before = self._found.get(kind)
        self._found[kind] = replace(first, more=count - 1) if before is None else replace(before, more=before.more + count)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Which rows, and which of their tokens, a record batch holds; what is wrong with them goes to `tally`."""

    tally: Tally
    row: NDArray[np.int64]  # [R] as column `row` has it
    row_offsets: NDArray[np.integer]  # [R + 1]
    window: NDArray[np.int32] | None  # [R]

    def rows(self, kind: str, bad: NDArray[np.bool_], say: Say) -> None:
        """bad: [R]. say: what is wrong with a row, by its number in the batch."""
        if bad.any():
            row = int(bad.argmax())
            self._add(kind, row, None, say(row), int(bad.sum()))

    def tokens(self, kind: str, bad: NDArray[np.bool_], say: Say, some: NDArray[np.int64] | None = None) -> None:
        """bad: [N], or [M] where `some` of the tokens are meant, [M]. say: what is wrong with one, by its number there."""
        if bad.any():
            first = int(bad.argmax())
            token = first if some is None else int(some[first])
            row = int(np.searchsorted(self.row_offsets, token, side="right")) - 1
            self._add(kind, row, token - int(self.row_offsets[row]), say(first), int(bad.sum()))

    def _add(self, kind: str, row: int, token: int | None, what: str, count: int) -> None:
        window = None if self.window is None else int(self.window[row])
        found = Finding(path=self.tally.path, what=what, row=int(self.row[row]), token=token, window=window)
        self.tally.add(kind, found, count)
