"""Canonical JSON and digests: one value, one text, one sha256."""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 as it is, no NaN (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def lean(value: Any, added: tuple[str, ...]) -> dict[str, Any]:
    """A dataclass as a dict, without those of its later `added` fields that have their default: older digests stay what they are."""
    defaults = {f.name: f.default for f in fields(value) if f.name in added}
    return {k: v for k, v in asdict(value).items() if k not in defaults or getattr(value, k) != defaults[k]}


def digest(value: Any) -> str:
    """sha256 (64 hex digits) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
