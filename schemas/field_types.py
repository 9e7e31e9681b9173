"""Types of fields that lie on disk, and the check of a JSON value against a type, by msgspec. docs/log.md has the measurements."""

import re
import reprlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]  # what every JSON reader represents exactly
Width = Annotated[int, Meta(gt=0, lt=1 << 31)]  # ids are read as int32
Number = Annotated[float, Meta(ge=-1e308, le=1e308)]  # finite
Share = Annotated[float, Meta(ge=-0.01, le=1.01)]  # sums of float16
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
TaskKind = Annotated[str, Meta(pattern=r"\A(class|value|span)\Z")]


def convert(value: Any, kind: Any, name: str = "") -> Any:
    """A JSON value as a type; ValueError, which names the first field that does not fit, its value and what was expected."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_one_line(str(error), value, name)) from None


def _one_line(message: str, value: Any, name: str) -> str:
    """`Expected … - at $.path` of msgspec with the value at that path."""
    expected, _, path = message.replace("`key` in ", "").partition(" - at `$")
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[...]")[0])  # [...] is any key of a dict
    for key, index in steps:
        value = value[key] if key else value[int(index)]
        name += f".{key}" if key else f"[{index}]"
    name = name.removeprefix(".")
    missing = re.search(r"missing required field `(\w+)`", expected)
    if missing:
        return f"{name} has no {missing[1]}".strip()
    return f"{name} is {reprlib.repr(value)}; {expected.partition(', got ')[0].replace('`', '').lower()}"
