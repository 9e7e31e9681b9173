"""What `textsmooth doctor` says: one finding for each thing that it looked at."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from textsmooth.pipeline.formatting import counted
from textsmooth.schemas.errors import TextsmoothError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    group: str
    name: str
    state: Literal["ok", "note", "problem"]  # note: works, but not all of it
    text: str
    remedy: str | None = None  # what to do next; None if all is well


@dataclass(frozen=True)
class Group:
    """Findings that stand together, under a title."""

    title: str

    def ok(self, name: str, text: str) -> Finding:
        return Finding(group=self.title, name=name, state="ok", text=text)

    def note(self, name: str, text: str, remedy: str) -> Finding:
        return Finding(group=self.title, name=name, state="note", text=text, remedy=remedy)

    def problem(self, name: str, text: str, remedy: str) -> Finding:
        return Finding(group=self.title, name=name, state="problem", text=text, remedy=remedy)

    def error(self, name: str, error: TextsmoothError, remedy: str) -> Finding:
        """A problem in the words of an error, which mostly end with what to do; remedy: if they do not."""
        said = " ".join(str(error).split())
        found = re.fullmatch(r"(.+)(?:; |: (?=pip ))(.+)", said)
        return self.problem(name, *(found.groups() if found else (said, remedy)))


def summary(findings: Sequence[Finding]) -> str:
    """All of them in one line."""
    problems, notes = (sum(finding.state == state for finding in findings) for state in ("problem", "note"))
    told = counted(problems, "problem") if problems else "all is well"
    return f"{told}, {counted(notes, 'note')}" if problems or notes else told


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """As `textsmooth doctor --json` prints them."""
    counts = {f"{state}s": sum(finding.state == state for finding in findings) for state in ("problem", "note")}
    return {"ok": not counts["problems"], **counts, "findings": [asdict(finding) for finding in findings]}
