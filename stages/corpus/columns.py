"""Choose text and label columns; read facts from the YAML head of a dataset card."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.tasks import LABEL_COLUMN, TEXT_COLUMNS

CARD_HEAD = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)

FACTS = ("pretty_name", "license_name", "license_link", "language", "task_categories")  # of a card: the last two are lists


def card_head(folder: Path) -> dict[str, Any]:
    """The YAML head of a README.md; empty if there is none."""
    import yaml

    readme = folder / "README.md"
    found = CARD_HEAD.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    try:
        head = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError):
        return {}
    return head if isinstance(head, dict) else {}


def folder_license(folder: Path) -> str | None:
    """The licence named in the YAML head of a README.md."""
    found = card_head(folder).get("license")
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found) if found else None


def card_facts(folder: Path) -> dict[str, Any]:
    """What the YAML head of a README.md says of a corpus, as far as it is text: those of FACTS that are there."""
    head = card_head(folder)
    found: dict[str, Any] = {name: head[name] for name in FACTS[:3] if isinstance(head.get(name), str)}
    for name in FACTS[3:]:
        values = head.get(name)
        listed = [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, str)]
        found |= {name: listed} if listed else {}
    return found


def choose_columns(
    found: dict[str, bool], *, text: tuple[str, ...], label: str | None, keep: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], str | None]:
    """The text columns (one, or a pair) and the label column of a corpus. UsageError names the columns there are."""
    listing = ", ".join(found) or "none"
    for column in (*text, *keep, *([label] if label else [])):
        if column not in found:
            raise UsageError(f"{where} has no column {column!r}; it has {listing}")
    if not text:
        text = next((known for known in TEXT_COLUMNS if all(found.get(c) for c in known)), ())
    if not text:
        strings = [c for c, is_text in found.items() if is_text]
        if len(strings) != 1:
            raise UsageError(f"which column of {where} is the text? It has {listing}; name one or two with --text-column")
        text = (strings[0],)
    if label is None and LABEL_COLUMN in found and LABEL_COLUMN not in text:
        label = LABEL_COLUMN
    return text, label


def late_columns(found: Iterable[str], text: tuple[str, ...], label: str | None, *, named: bool) -> tuple[tuple[str, ...], ...]:
    """Groups of columns that were not found, and would have changed what choose_columns gave: text and label. named: the text was."""
    before = TEXT_COLUMNS[: TEXT_COLUMNS.index(text)] if text in TEXT_COLUMNS else TEXT_COLUMNS
    known = [*(() if named else before), *(() if label else [(LABEL_COLUMN,)])]
    groups = (tuple(column for column in columns if column not in found) for columns in known)
    return tuple(group for group in groups if group)
