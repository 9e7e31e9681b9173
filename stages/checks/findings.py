"""Collect what is wrong with a file: the first place of each kind of finding, and how many more there are.

Legend: R rows, N tokens, M some of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textsmooth.schemas.printable import printable

Describe = Callable[[int], str]  # what is wrong with a row or token, by its index


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a file of a dataset."""

    path: str  # in the dataset
    what: str  # one line
    row: int | None = None  # of the split, as column `row` has it
    token: int | None = None  # of that row, or of its window
    window: int | None = None
    more: int = 0  # further rows or tokens of this file with the same fault
    altered: bool = False  # the file is missing or differs from the manifest: fetching it again may help
    remedy: str = ""  # advice for this finding, where the general advice does not fit

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
class Findings:
    """The findings of one file: the first of each kind, with the number of further ones."""

    path: str
    _by_kind: dict[str, Finding] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        return list(self._by_kind.values())

    def file(self, what: str) -> None:
        """Add a finding about the file as a whole."""
        self.add(what, Finding(path=self.path, what=what), 1)

    def add(self, kind: str, first: Finding, count: int) -> None:
        """Add `count` findings of a kind; only the first one of a kind is kept."""
        before = self._by_kind.get(kind)
        self._by_kind[kind] = replace(first, more=count - 1) if before is None else replace(before, more=before.more + count)


@dataclass(frozen=True, kw_only=True)
class FirstPlaces:
    """The rows of a record batch and their tokens, to add findings about them: the first row or token, and how many."""

    findings: Findings
    row: NDArray[np.int64]  # [R] as column `row` has it
    row_offsets: NDArray[np.integer]  # [R + 1]
    window: NDArray[np.int32] | None  # [R]

    def rows(self, kind: str, bad: NDArray[np.bool_], describe: Describe) -> None:
        """Add a finding if any of the rows is bad, [R]. describe: gets the index of the row in the batch."""
        if bad.any():
            row = int(bad.argmax())
            self._add(kind, row, None, describe(row), int(bad.sum()))

    def tokens(self, kind: str, bad: NDArray[np.bool_], describe: Describe, subset: NDArray[np.int64] | None = None) -> None:
        """Add a finding if any token is bad: [N], or [M] of a `subset` of the tokens, [M]. describe: gets the index in `bad`."""
        if bad.any():
            first = int(bad.argmax())
            token = first if subset is None else int(subset[first])
            row = int(np.searchsorted(self.row_offsets, token, side="right")) - 1
            self._add(kind, row, token - int(self.row_offsets[row]), describe(first), int(bad.sum()))

    def _add(self, kind: str, row: int, token: int | None, what: str, count: int) -> None:
        window = None if self.window is None else int(self.window[row])
        finding = Finding(path=self.findings.path, what=what, row=int(self.row[row]), token=token, window=window)
        self.findings.add(kind, finding, count)
