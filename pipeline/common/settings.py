"""One YAML file to frozen dataclasses, strictly.

Every command reads one experiment file.  A section is a frozen dataclass: its annotations say what a value
may be, and `build` turns the YAML mapping into it.  Nothing is guessed: an unknown, mistyped or out-of-range
key is an error naming file, line, section, key and the nearest valid key, and all errors are reported at once.
An override of the command line stays as typed until the type of its key is known.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pipeline.common.errors import SettingsError
from pipeline.common.text import dotted, shown

T = TypeVar("T")

SECTIONS = (
    "model_name", "device_target", "dataset_sink_mode", "context", "model", "learning_rate", "optimizer",
    "loss", "train", "eval", "infer", "export", "data_loader", "preprocess",
)  # fmt: skip

MAX_ERRORS = 20
"""Errors that are listed; of more, only the number is."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, both inclusive unless `above` is set (then the lower bound is exclusive)."""

    min: float = -math.inf
    max: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.min if self.above else value >= self.min) and value <= self.max

    def __str__(self) -> str:
        low = ("more than " if self.above else "at least ") + f"{self.min:g}" if self.min > -math.inf else ""
        high = f"at most {self.max:g}" if self.max < math.inf else ""
        return " and ".join(part for part in (low, high) if part)


class PathMark:
    """Marks text that is a path: in a YAML file, `~`, `$NAME` and `${NAME}` in it are expanded."""


PositiveInt = Annotated[int, Range(min=1)]
NonNegativeInt = Annotated[int, Range(min=0)]
PositiveFloat = Annotated[float, Range(min=0, above=True)]
NonNegativeFloat = Annotated[float, Range(min=0)]
Fraction = Annotated[float, Range(min=0, max=1)]
PathText = Annotated[str, PathMark()]


class Typed(str):
    """The text of an override; what it means depends on the type of its key."""


class Document:
    """An experiment file as read: its values, and the line each key stands on.

    Attributes:
        path: the YAML file, or None when there is none.
        values: the nested mapping; an override in it is `Typed`.

    Raises:
        SettingsError: the file is missing, is not a YAML mapping, repeats a key or has an unknown section.
    """

    def __init__(self, path: Path | str | None, overrides: dict[str, str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.values: dict[str, Any] = {}
        self._lines: dict[tuple[str, ...], str] = {}
        if self.path is not None:
            from pipeline.common.yaml_file import read_mapping

            self.values, lines = read_mapping(self.path)
            self._lines = {key: f"{self.path}:{line}" for key, line in lines.items()}
        for name, text in (overrides or {}).items():
            self._override(name, text)
        errors = Errors()
        for section in self.values:
            if section not in SECTIONS:
                errors.add(lambda key=section: f"{self.where((key,))}: unknown section{nearest(key, SECTIONS)}")
        errors.raise_any()

    def where(self, key: tuple[str, ...]) -> str:
        """`file:line: section.key`, for error messages; of a key that is absent, its closest parent's line."""
        for length in range(len(key), 0, -1):
            line = self._lines.get(key[:length], "")
            if line == f"--{dotted(key)}":
                return line
            if line:
                return f"{line}: {dotted(key)}"
        return f"{self.path or 'defaults'}: {dotted(key)}"

    def copy_key(self, source: tuple[str, ...], section: str, name: str) -> None:
        """Give `section.name` the text that the key `source` has, if it has one and `section.name` is not given."""
        value: Any = self.values
        for word in source:
            value = value.get(word) if isinstance(value, dict) else None
        if self.values.get(section) is None:
            self.values[section] = {}
        if isinstance(value, str) and isinstance(self.values[section], dict) and name not in self.values[section]:
            self.values[section][name] = value
            self._lines[(section, name)] = self._lines.get(source, "")

    def _override(self, name: str, text: str) -> None:
        *parents, leaf = name.split(".")
        node = self.values
        for depth, parent in enumerate(parents):
            if node.get(parent) is None:  # absent, or a section left empty
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise SettingsError(f"--{name}: {'.'.join(parents[: depth + 1])} has no keys")
        node[leaf] = Typed(text)
        self._lines[tuple(name.split("."))] = f"--{name}"


class Errors:
    """What is wrong with a configuration; only the first MAX_ERRORS are put into words, however many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []

    def add(self, words: Callable[[], str]) -> None:
        """Note one more error."""
        self.count += 1
        if self.count <= MAX_ERRORS:
            self._lines.append(words())

    def raise_any(self) -> None:
        """Raise them all.

        Raises:
            SettingsError: there is at least one.
        """
        if self.count:
            more = [f"and {self.count - MAX_ERRORS:,} more"] if self.count > MAX_ERRORS else []
            raise SettingsError("\n".join(self._lines + more))


def build(cls: type[T], document: Document, section: str = "") -> T:
    """Turn one section (or, with no name, the whole document) into the frozen dataclass `cls`.

    Raises:
        SettingsError: every error found, one a line.
    """
    errors = Errors()
    key = (section,) if section else ()
    values = document.values.get(section, {}) if section else document.values
    result = _dataclass(cls, values, key, document, errors)
    errors.raise_any()
    return result


def nearest(word: str, allowed: typing.Iterable[str]) -> str:
    """`; nearest valid: x`, for the end of an error message; the whole list when nothing is near."""
    import difflib  # 5 ms, and only errors need it

    names = list(allowed)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; nearest valid: {close[0]}" if close else f"; valid: {', '.join(names)}"


def to_plain(value: Any) -> Any:
    """The YAML form of a built section: nested dictionaries, lists, numbers and text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, or dataclasses.MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def type_name(hint: Any) -> str:
    """A type as a user would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == PathText:
        return "path"
    if origin is Annotated:
        return f"{type_name(arguments[0])} {arguments[1]}"
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is tuple:
        inner = f"{type_name(arguments[0])}, ..." if arguments[-1] is ... else ", ".join(map(type_name, arguments))
        return f"[{inner}]"
    if dataclasses.is_dataclass(hint):
        return f"{{{', '.join(field.name for field in dataclasses.fields(hint))}}}"
    words = {"NoneType": "null", "str": "text", "int": "whole number", "float": "number", "bool": "true | false"}
    return words[hint.__name__]


def _dataclass(
    cls: type[T], values: Any, key: tuple[str, ...], document: Document, errors: Errors, defaults: T | None = None
) -> T:
    """A section; `defaults` is the instance whose values the keys that are not given have, instead of the class's."""
    values = _parsed(values) if isinstance(values, Typed) else values
    if values is None:
        values = {}
    if not isinstance(values, dict):
        errors.add(lambda: f"{document.where(key)}: expected keys, got {shown(values)}")
        return typing.cast(T, None)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls, include_extras=True)
    before = errors.count
    for name in values:
        if name not in fields:
            errors.add(lambda name=name: f"{document.where((*key, name))}: unknown key{nearest(name, fields)}")
    arguments = {}
    for name, field in fields.items():
        default = default_of(field) if defaults is None else getattr(defaults, name)
        if name in values and not dataclasses.is_dataclass(hints[name]):
            arguments[name] = _value(hints[name], values[name], (*key, name), document, errors)
        elif name in values or (default is dataclasses.MISSING and dataclasses.is_dataclass(hints[name])):
            inherited = None if default is dataclasses.MISSING else default
            arguments[name] = _dataclass(hints[name], values.get(name), (*key, name), document, errors, inherited)
        elif default is dataclasses.MISSING:
            wanted = type_name(hints[name])
            errors.add(lambda name=name, wanted=wanted: f"{document.where((*key, name))}: missing, expected {wanted}")
        else:
            arguments[name] = default
    if errors.count > before:
        return typing.cast(T, None)
    try:
        return cls(**arguments)
    except ValueError as error:  # what __post_init__ says of keys that do not go together
        words = f"{document.where(key)}: {error}" if key else f"{document.path or 'defaults'}: {error}"
        errors.add(lambda: words)
        return typing.cast(T, None)


def _value(hint: Any, value: Any, key: tuple[str, ...], document: Document, errors: Errors) -> Any:
    """A value as the type `hint`, or an error; each item of a list has errors of its own."""
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint), value, key, document, errors)
    if isinstance(value, Typed) and not _takes_text(hint):
        value = _parsed(value)
    lists = [choice for choice in (hint, *typing.get_args(hint)) if typing.get_origin(choice) is tuple]
    arguments = typing.get_args(lists[0]) if lists else ()
    if arguments and isinstance(value, list) and (arguments[-1] is ... or len(arguments) == len(value)):
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        return tuple(
            _value(item_hint, item, (*key, str(index)), document, errors)
            for index, (item_hint, item) in enumerate(zip(hints, value, strict=True))
        )
    try:
        return _converted(hint, value)
    except _Misfit as misfit:
        reason = str(misfit)
        got = _parsed(value) if isinstance(value, Typed) else value
        near = lambda: nearest(got, _choices(hint)) if isinstance(got, str) and _choices(hint) else ""  # noqa: E731
        errors.add(lambda: f"{document.where(key)}: got {shown(got)}, expected {reason or type_name(hint)}{near()}")
        return None


class _Misfit(Exception):
    """A value that is not of a type; with what was expected, where that is more than the type's name."""


def _converted(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`.  YAML 1.1 reads 1e-4 as text, so numbers in text count as numbers.

    Raises:
        _Misfit: it is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = _converted(arguments[0], value)
        if isinstance(arguments[1], PathMark):
            return converted if isinstance(value, Typed) else _expanded(converted)
        if converted in arguments[1]:
            return converted
    elif origin in (typing.Union, types.UnionType):
        reason = ""
        for choice in arguments:
            try:
                return _converted(choice, value)
            except _Misfit as misfit:
                reason = reason or str(misfit)
        raise _Misfit(reason)
    elif origin is Literal:
        for candidate in (str(value), _parsed(value)) if isinstance(value, Typed) else (value,):
            for choice in arguments:
                if candidate == choice and type(candidate) is type(choice):
                    return choice
    elif origin is tuple:
        items = _items(arguments, value) if isinstance(value, Typed) else value
        if isinstance(items, (list, tuple)) and (arguments[-1] is ... or len(arguments) == len(items)):
            hints = [arguments[0]] * len(items) if arguments[-1] is ... else arguments
            return tuple(_converted(item_hint, item) for item_hint, item in zip(hints, items, strict=True))
    elif hint is str:
        if isinstance(value, str):
            return str(value)
    else:
        value = _parsed(value) if isinstance(value, Typed) else value
        if hint is float and not isinstance(value, bool):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                raise _Misfit from None
            if math.isfinite(number):
                return number
        elif type(value) is hint:
            return value
    raise _Misfit


def _takes_text(hint: Any) -> bool:
    """Whether an override of a key of this type may be text as typed, or texts."""
    if typing.get_origin(hint) is Literal:
        return any(isinstance(choice, str) for choice in typing.get_args(hint))
    return hint is str or any(_takes_text(argument) for argument in typing.get_args(hint))


def _parsed(text: Typed) -> Any:
    """What an override means as YAML; nothing is the empty text, and what is no YAML stays as typed."""
    from pipeline.common.yaml_file import YamlError, parse_value

    try:
        return parse_value(text) if text else ""
    except YamlError:
        return str(text)


def _items(arguments: tuple[Any, ...], text: Typed) -> Any:
    """The items of an override that is a list; of a list of texts they are as written, and any other text is one."""
    from pipeline.common.yaml_file import YamlError, parse_value

    if not _takes_text(arguments[0]):
        return _parsed(text)
    if text in ("", "null"):
        return None
    try:
        items = parse_value(text, as_texts=True)
    except YamlError:
        items = None
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return [Typed(item) for item in items]
    return [text]


_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def _expanded(path: str) -> str:
    """A path of a YAML file with the user's home folder and environment variables put in.

    Raises:
        _Misfit: naming a variable that is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise _Misfit(f"a path; the environment variable {dotted((name,))} is not set")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(value_of, path))


def _choices(hint: Any) -> list[str]:
    """The words a value may be, for the nearest-word hint."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [str(choice) for choice in arguments]
    inner = arguments[:1] if typing.get_origin(hint) is Annotated else arguments
    return [word for argument in inner for word in _choices(argument)]
