"""Values of the types that a dataclass declares: what comes from Python code has been through no command line."""

import types
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Generic, Self, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from textsmooth.schemas.errors import UsageError

Given = TypeVar("Given", contravariant=True)
Kept = TypeVar("Kept", covariant=True)


class Converted(Generic[Given, Kept]):
    """The type of a dataclass field whose constructor takes one type (Given) and whose attribute has another (Kept).

    Type checkers read both from this descriptor (docs.python.org, "Descriptor-typed fields"). There is no instance of it: the dataclass
    converts the value in __post_init__.
    """

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Kept: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Kept:
        raise NotImplementedError

    def __set__(self, instance: object, value: Given) -> None:
        raise NotImplementedError


_KINDS: dict[Any, tuple[type, str]] = {  # numbers of numpy are numbers
    str: (str, "a text"),
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    types.NoneType: (types.NoneType, "None"),
}


def check_types(options: Any) -> None:
    """UsageError for a field of a dataclass whose value is not of the declared type: text, bool, number, None, or a tuple of these.

    A whole number is a number; a bool is neither. A list does for a tuple. Fields of other types are not looked at.
    """
    for name, hint in _declared(type(options)).items():
        value = getattr(options, name)
        several = _element(hint)
        if several is None:
            if not _is(value, hint):
                raise UsageError(f"{name.replace('_', '-')} must be {_said(hint)}, not {value!r}")
        elif not isinstance(value, tuple | list) or not all(_is(one, several) for one in value):
            raise UsageError(f"{name.replace('_', '-')} must be a tuple, each {_said(several)}, not {value!r}")


def field_types(kind: type, *, given: bool = False) -> dict[str, Any]:
    """The types of a dataclass's attributes; given: those that its constructor takes."""
    hints = get_type_hints(kind)
    types = {f.name: hints[f.name] for f in fields(kind)}
    return {name: get_args(hint)[0 if given else 1] if get_origin(hint) is Converted else hint for name, hint in types.items()}


def _declared(kind: type) -> dict[str, Any]:
    """The types of the fields that can be checked."""
    return {name: hint for name, hint in field_types(kind).items() if all(one in _KINDS for one in _alternatives(_element(hint) or hint))}


def _element(hint: Any) -> Any:
    """X of tuple[X, ...]; None of what is no tuple."""
    return get_args(hint)[0] if get_origin(hint) is tuple else None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is(value: Any, hint: Any) -> bool:
    kinds = _alternatives(hint)
    return bool in kinds if isinstance(value, bool) else any(isinstance(value, _KINDS[kind][0]) for kind in kinds)


def _said(hint: Any) -> str:
    return " or ".join(_KINDS[kind][1] for kind in _alternatives(hint))
