"""Options as dataclass fields: a field holds its help, group, choices and check, and every surface is made from it.

`topk: int = option(32, help=…, group=…, check=whole(1))` is one option. The command line takes its flag from it, the job file its key, the
Python function its keyword argument; none of them is written anywhere else.
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.type_checks import Converted, check_types, field_types

Check = Callable[[str, Any], None]  # (name, value): UsageError unless the value is allowed
P = ParamSpec("P")
R = TypeVar("R")

# Default of a Converted field that has to be given; as a dataclass default, because type checkers see no descriptor in a field without one.
REQUIRED: Any = object()
# Types of fields: what the constructor takes, what the attribute then is.
RequiredPath = Converted[str | Path, str]
OptionalPath = Converted[str | Path | None, str | None]
Texts = Converted[str | Sequence[str], tuple[str, ...]]
Numbers = Converted[float | Sequence[float], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of an option beside its type and default."""

    help: str  # begins with what the option does; without the default, which is added
    group: str = "Options"  # heading in --help
    flag: str | None = None  # name on the command line, if it is not that of the field
    metavar: str | None = None
    unset: str | None = None  # what happens where the option is not given, as --help shows it; only where None or () is the default
    none_word: str | None = None  # word that stands for None on the command line: auto, none
    choices: Collection[str] = ()
    commas: bool = False  # whether one value on the command line may be several, separated by commas
    convert: Callable[[Any], Any] | None = None
    check: Check | None = None  # of a value that is not None


def described(**details: Any) -> dict[str, Option]:
    """Metadata of a dataclass field that is an option; details: fields of Option."""
    return {"option": Option(**details)}


def option(default: Any, **details: Any) -> Any:
    """A dataclass field that is an option; details: fields of Option."""
    return field(default=default, metadata=described(**details))


def options_of(kind: Any) -> dict[str, tuple[Field[Any], Option]]:
    """The options of a dataclass, by field name."""
    return {f.name: (f, f.metadata["option"]) for f in fields(kind) if "option" in f.metadata}


def flag_of(name: str, details: Option) -> str:
    """The option's name on the command line, without the dashes in front."""
    return details.flag or name.replace("_", "-")


def check_options(values: Any, kind: Any = None, *, skip: tuple[str, ...] = ()) -> None:
    """Convert and check the fields of a dataclass that is being constructed. UsageError for a value of the wrong type, or not allowed.

    TypeError for a required field that is not given.
    kind: the dataclass whose options describe the fields, if it is another one; None is then allowed nowhere. skip: fields not to check.
    """
    known = options_of(kind or type(values))
    missing = [name for name in known if getattr(values, name, None) is REQUIRED]
    if missing:
        raise TypeError(f"{type(values).__name__} needs {missing[0]}")
    for name, (_, details) in known.items():
        if kind is None and details.convert is not None:
            object.__setattr__(values, name, details.convert(getattr(values, name)))
    check_types(values)
    for name, (_, details) in known.items():
        if hasattr(values, name) and name not in skip and (kind is not None or getattr(values, name) is not None):
            _check_value(flag_of(name, details), getattr(values, name), details)


def _check_value(name: str, value: Any, details: Option) -> None:
    if details.choices and value not in details.choices:
        raise UsageError(f"{name} {value!r} is not one of {', '.join(details.choices)}")
    if details.check is not None:
        details.check(name, value)


def whole(least: int) -> Check:
    """A check: a whole number of at least so much."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} must be a whole number of at least {least}, not {value!r}")

    return check


def number(what: str = "a finite number", *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf) -> Check:
    """A check: a finite number in a range. what: how the message calls it, with its unit."""
    bounds = [f"above {above:g}" if above > -math.inf else "", f"of at least {least:g}" if least > -math.inf else ""]
    bounds.append(f"at most {most:g}" if most < math.inf else "")
    allowed = " and ".join(filter(None, bounds))

    def check(name: str, value: Any) -> None:
        if not (math.isfinite(value) and value > above and least <= value <= most):
            raise UsageError(f"{name} must be {what} {allowed}, not {value:g}")

    return check


def to_text(value: Any) -> Any:
    """A path or a whole number as text."""
    return str(value) if isinstance(value, Path | int) and not isinstance(value, bool) else value


def to_tuple(value: Any) -> Any:
    """A tuple of several values; a single text or number is one of them, None is none."""
    if value is None or isinstance(value, str | int | float):
        return () if value is None else (value,)
    return tuple(value) if isinstance(value, Iterable) else value


def takes_options_of(kind: Callable[P, Any], **defaults: Any) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the arguments of an options dataclass: names, types and defaults, in help() and for type checkers.

    The function is called with keyword arguments only. defaults: those that differ from the dataclass. A ParamSpec is used instead of a
    TypedDict with Unpack, because type checkers then read the fields themselves; a TypedDict would repeat the name and type of each.
    """
    assert is_dataclass(kind)
    parameters = []
    types = field_types(kind, given=True)
    for f in fields(kind):
        default = defaults.get(f.name, inspect.Parameter.empty if f.default in (MISSING, REQUIRED) else f.default)
        how = inspect.Parameter.KEYWORD_ONLY if f.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(f.name, how, default=default, annotation=types[f.name]))

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        signature = inspect.Signature(parameters, return_annotation=inspect.signature(function).return_annotation)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)  # TypeError for an unknown argument, or a missing one
            return function(**(defaults | bound.arguments))

        texts = (f"    {name}: {sentence(f, details)}" for name, (f, details) in options_of(kind).items())
        call.__doc__ = "\n".join([function.__doc__ or "", *texts])
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def sentence(f: Field[Any], details: Option) -> str:
    """The help of an option, with what is used where it is not given if the default does not show that."""
    return f"{details.help}  [default: {details.unset}]" if details.unset is not None and f.default in (None, ()) else details.help
