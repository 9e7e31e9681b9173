"""The results of the checks of `textsmooth doctor`, as text and JSON."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from textsmooth.pipeline.formatting import counted
from textsmooth.schemas.errors import TextsmoothError


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    group: str
    name: str
    state: Literal["ok", "note", "problem"]  # note: works in part
    text: str
    remedy: str | None = None  # what to do next; None if ok


@dataclass(frozen=True)
class Group:
    """Results that are printed under one title."""

    title: str

    def ok(self, name: str, text: str) -> CheckResult:
        return CheckResult(group=self.title, name=name, state="ok", text=text)

    def note(self, name: str, text: str, remedy: str) -> CheckResult:
        return CheckResult(group=self.title, name=name, state="note", text=text, remedy=remedy)

    def problem(self, name: str, text: str, remedy: str) -> CheckResult:
        return CheckResult(group=self.title, name=name, state="problem", text=text, remedy=remedy)

    def error(self, name: str, error: TextsmoothError, remedy: str) -> CheckResult:
        """A problem with the message of an error, split into text and remedy. remedy: for a message that names none."""
        message = " ".join(str(error).split())
        parts = re.fullmatch(r"(.+)(?:; |: (?=pip ))(.+)", message)
        return self.problem(name, *(parts.groups() if parts else (message, remedy)))


def summary(findings: Sequence[CheckResult]) -> str:
    """The counts of problems and notes, in one line."""
    problems, notes = (sum(finding.state == state for finding in findings) for state in ("problem", "note"))
    outcome = counted(problems, "problem") if problems else "all is well"
    return f"{outcome}, {counted(notes, 'note')}" if problems or notes else outcome


def to_json(findings: Sequence[CheckResult]) -> dict[str, Any]:
    """As `textsmooth doctor --json` prints them."""
    counts = {f"{state}s": sum(finding.state == state for finding in findings) for state in ("problem", "note")}
    return {"ok": not counts["problems"], **counts, "findings": [asdict(finding) for finding in findings]}
