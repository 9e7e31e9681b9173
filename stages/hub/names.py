"""Names of repositories on the Hub. It accepts fewer: no `--` or `..`, no `-` or `.` at an end, no `.git`, at most 96 characters."""

import re

HUB = "hf://"  # before a name that must not be taken for a local one
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
OWNED_NAME = rf"{_PART}/{_PART}"  # owner/name, to be part of a larger pattern
DATASET_NAME = re.compile(OWNED_NAME)
MODEL_NAME = re.compile(rf"(?:{_PART}/)?{_PART}")  # some old models have no owner
