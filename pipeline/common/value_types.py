"""The types of configuration keys, and the conversion of a file's or an override's value to them.

The annotations of a section's fields are numbers with a Range, Literals, PathText, Name, tuples and unions.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from typing import Annotated, Any, Literal

from pipeline.common.text import dotted, visible


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, both inclusive unless `above` is set (then the lower bound is exclusive)."""

    min: float = -math.inf
    max: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.min if self.above else value >= self.min) and value <= self.max

    def __str__(self) -> str:
        low = ("more than " if self.above else "at least ") + _number(self.min) if self.min > -math.inf else ""
        high = f"at most {_number(self.max)}" if self.max < math.inf else ""
        return " and ".join(part for part in (low, high) if part)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"


class PathMark:
    """Marks text that is a path: in a YAML file, `~`, `$NAME` and `${NAME}` in it are expanded."""


class NameMark:
    """Marks text that names one file or folder, which a command joins to a folder of its own."""


PositiveInt = Annotated[int, Range(min=1)]
NonNegativeInt = Annotated[int, Range(min=0)]
PositiveFloat = Annotated[float, Range(min=0, above=True)]
NonNegativeFloat = Annotated[float, Range(min=0)]
Fraction = Annotated[float, Range(min=0, max=1)]
PathText = Annotated[str, PathMark()]
Name = Annotated[str, NameMark()]
NAME_RULE = "a name of at most 100 bytes without / or \\ or control characters, and not . or .."


def is_name(text: str) -> bool:
    """Whether a text can only name a file or folder directly inside the folder that it is joined to."""
    return (
        0 < len(text.encode(errors="replace")) <= 100
        and text not in (".", "..")
        and not set(text) & set("/\\\n\t")
        and visible(text) == text
    )


class Typed(str):
    """The text of an override; the type of its key decides what it means."""


def type_name(hint: Any) -> str:
    """A type in plain words, for messages and --help."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == PathText:
        return "path"
    if hint == Name:
        return "name"
    if origin is Annotated:
        return f"{type_name(arguments[0])} {arguments[1]}"
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is tuple:
        item = type_name(arguments[0])
        return f"[{item}, ...]" if arguments[-1] is ... else f"[{len(arguments)} x {item}]"  # all items have one type
    if dataclasses.is_dataclass(hint):
        return f"{{{', '.join(field.name for field in dataclasses.fields(hint))}}}"
    words = {"NoneType": "null", "str": "text", "int": "whole number", "float": "number", "bool": "true | false"}
    return words[hint.__name__]


class MisfitError(Exception):
    """A value that does not fit a type; its text is what was expected, or empty if the type's name is enough."""


def converted_to(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`.  YAML 1.1 reads 1e-4 as text, so a text that is a number counts as a number.

    Raises:
        MisfitError: it has another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = converted_to(arguments[0], value)
        if isinstance(arguments[1], PathMark):
            return converted if isinstance(value, Typed) else _expanded(converted)
        if isinstance(arguments[1], NameMark):
            if is_name(converted):
                return converted
            raise MisfitError(NAME_RULE)
        if converted in arguments[1]:
            return converted
    elif origin in (typing.Union, types.UnionType):
        reason = ""
        for choice in arguments:
            try:
                return converted_to(choice, value)
            except MisfitError as misfit:
                reason = reason or str(misfit)
        raise MisfitError(reason)
    elif origin is Literal:
        for candidate in (str(value), parsed(value)) if isinstance(value, Typed) else (value,):
            for choice in arguments:
                if candidate == choice and type(candidate) is type(choice):
                    return choice
    elif origin is tuple:
        items = _items(arguments, value) if isinstance(value, Typed) else value
        if isinstance(items, (list, tuple)) and (arguments[-1] is ... or len(arguments) == len(items)):
            hints = [arguments[0]] * len(items) if arguments[-1] is ... else arguments
            return tuple(converted_to(item_hint, item) for item_hint, item in zip(hints, items, strict=True))
    elif hint is str:
        if isinstance(value, str):
            return str(value)
    else:
        value = parsed(value) if isinstance(value, Typed) else value
        if hint is float and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                raise MisfitError from None
            if math.isfinite(number):
                return number
        elif type(value) is hint:
            return value
    raise MisfitError


def takes_text(hint: Any) -> bool:
    """Whether a key of this type takes text or a list of texts, so that an override is used as typed."""
    if typing.get_origin(hint) is Literal:
        return any(isinstance(choice, str) for choice in typing.get_args(hint))
    return hint is str or any(takes_text(argument) for argument in typing.get_args(hint))


def parsed(text: Typed) -> Any:
    """An override read as YAML; an empty one is the empty text, and one that is not YAML stays as typed."""
    from pipeline.common.yaml_file import YamlError, parse_value

    try:
        return parse_value(text) if text else ""
    except YamlError:
        return str(text)


def _items(arguments: tuple[Any, ...], text: Typed) -> Any:
    """The items of an override of a list; texts stay as typed, and a text that is no list is the only item."""
    from pipeline.common.yaml_file import YamlError, parse_value

    if not takes_text(arguments[0]):
        return parsed(text)
    if text in ("", "null"):
        return None
    try:
        items = parse_value(text, as_texts=True)
    except YamlError:
        items = None
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return [Typed(item) for item in items]
    return [text]


_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\}|(\$))")


def _expanded(path: str) -> str:
    """A path of a YAML file with `~` and environment variables replaced by their values, and `$$` by `$`.

    Raises:
        MisfitError: a variable is not set; the text names it.
    """

    def value_of(match: re.Match[str]) -> str:
        if match[3]:
            return "$"
        name = match[1] or match[2]
        if name not in os.environ:
            raise MisfitError(f"a path; the environment variable {dotted((name,))} is not set")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(value_of, path))


def holds_paths(hint: Any) -> bool:
    """Whether a type is a path or a list of paths."""
    return hint == PathText or any(holds_paths(argument) for argument in typing.get_args(hint))


def unexpanded(path: str) -> str:
    """The text that a YAML file must have for its value to be `path`."""
    return ("./" if path.startswith("~") else "") + path.replace("$", "$$")


def choices(hint: Any) -> list[str]:
    """The words a value may be, to find the nearest."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [str(choice) for choice in arguments]
    inner = arguments[:1] if typing.get_origin(hint) is Annotated else arguments
    return [word for argument in inner for word in choices(argument)]
