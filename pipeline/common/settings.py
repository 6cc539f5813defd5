"""One YAML file to frozen dataclasses, strictly.

Every command reads one experiment file.  A section is a frozen dataclass: its annotations say what a value
may be, and `build` turns the YAML mapping into it.  Nothing is guessed: an unknown, mistyped or out-of-range
key is an error naming file, line, section, key and the nearest valid key, and all errors are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from pipeline.common.errors import UserError

T = TypeVar("T")

SECTIONS = (
    "model_name", "device_target", "dataset_sink_mode", "context", "model", "learning_rate", "optimizer",
    "loss", "train", "eval", "infer", "export", "data_loader", "preprocess",
)  # fmt: skip


class SettingsError(UserError):
    """One or more faults in an experiment file or in the overrides given with it."""


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


PositiveInt = Annotated[int, Range(min=1)]
NonNegativeInt = Annotated[int, Range(min=0)]
PositiveFloat = Annotated[float, Range(min=0, above=True)]
NonNegativeFloat = Annotated[float, Range(min=0)]
Fraction = Annotated[float, Range(min=0, max=1)]


class Document:
    """An experiment file as read: its values, and the line each key stands on.

    Attributes:
        path: the YAML file, or None when there is none.
        values: the nested mapping, overrides applied.

    Raises:
        SettingsError: the file is missing, is not a YAML mapping, repeats a key or has an unknown section.
    """

    def __init__(self, path: Path | str | None, overrides: dict[str, str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._lines: dict[tuple[str, ...], str] = {}
        self.values: dict[str, Any] = self._read() if self.path is not None else {}
        for dotted, text in (overrides or {}).items():
            self._override(dotted, text)
        for section in self.values:
            if section not in SECTIONS:
                raise SettingsError(f"{self.where((section,))}: unknown section{nearest(section, SECTIONS)}")

    def where(self, key: tuple[str, ...]) -> str:
        """`file:line: section.key`, for error messages; of a key that is absent, its closest parent's line."""
        for length in range(len(key), 0, -1):
            line = self._lines.get(key[:length], "")
            if line == f"--{'.'.join(key)}":
                return line
            if line:
                return f"{line}: {'.'.join(key)}"
        return f"{self.path or 'defaults'}: {'.'.join(key)}"

    def _read(self) -> dict[str, Any]:
        assert self.path is not None
        try:
            loader = yaml.SafeLoader(self.path.read_text(encoding="utf-8"))
            root = loader.get_single_node()
            self._note_lines(root, ())
            values = loader.construct_document(root) if root is not None else None
        except FileNotFoundError:
            raise SettingsError(f"{self.path}: no such configuration file (give one with -c FILE)") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{self.path}: cannot be read as YAML: {error}") from None
        if not isinstance(values, dict):
            raise SettingsError(f"{self.path}: expected a mapping of sections, got {type(values).__name__}")
        return values

    def _note_lines(self, node: yaml.Node | None, prefix: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                key = (*prefix, str(key_node.value))
                if key in self._lines:
                    raise SettingsError(f"{self.path}:{key_node.start_mark.line + 1}: {'.'.join(key)}: given twice")
                self._lines[key] = f"{self.path}:{key_node.start_mark.line + 1}"
                if isinstance(key_node, yaml.ScalarNode) and not key_node.tag.endswith(":merge"):
                    key_node.tag = "tag:yaml.org,2002:str"  # YAML 1.1 takes `on`, `no` and 1 for values
                self._note_lines(value_node, key)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._note_lines(item, (*prefix, str(index)))

    def _override(self, dotted: str, text: str) -> None:
        *parents, leaf = dotted.split(".")
        node = self.values
        for depth, parent in enumerate(parents):
            if node.get(parent) is None:  # absent, or a section left empty
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise SettingsError(f"--{dotted}: {'.'.join(parents[: depth + 1])} has no keys")
        try:
            node[leaf] = yaml.safe_load(text) if text else ""  # for YAML nothing is null
        except yaml.YAMLError as error:
            raise SettingsError(f"--{dotted}: value {text!r} cannot be read: {error}") from None
        self._lines[tuple(dotted.split("."))] = f"--{dotted}"


def build(cls: type[T], document: Document, section: str = "") -> T:
    """Turn one section (or, with no name, the whole document) into the frozen dataclass `cls`.

    Raises:
        SettingsError: every fault found, one a line.
    """
    faults: list[str] = []
    key = (section,) if section else ()
    values = document.values.get(section, {}) if section else document.values
    result = _dataclass(cls, values, key, document, faults)
    if faults:
        raise SettingsError("\n".join(faults))
    return result


def nearest(word: str, allowed: typing.Iterable[str]) -> str:
    """`; nearest valid: x`, for the end of an error message; the whole list when nothing is near."""
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


def describe(cls: type, prefix: str = "") -> Iterator[str]:
    """One line for each key that `cls` accepts, as shown by --help: `section.key  type  (default)`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from describe(hints[field.name], f"{name}.")
        else:
            default = "" if field.default is dataclasses.MISSING else f"  (default {field.default!r})"
            yield f"  --{name}  {_name(hints[field.name])}{default}"


def _dataclass(cls: type[T], values: Any, key: tuple[str, ...], document: Document, faults: list[str]) -> T:
    if values is None:
        values = {}
    if not isinstance(values, dict):
        faults.append(f"{document.where(key)}: expected keys, got {values!r}")
        return typing.cast(T, None)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls, include_extras=True)
    before = len(faults)
    for name in values:
        if name not in fields:
            faults.append(f"{document.where((*key, name))}: unknown key{nearest(name, fields)}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _value(hints[name], values[name], (*key, name), document, faults)
        elif dataclasses.is_dataclass(hints[name]) and field.default is dataclasses.MISSING:
            arguments[name] = _dataclass(hints[name], {}, (*key, name), document, faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{document.where((*key, name))}: missing, expected {_name(hints[name])}")
    if len(faults) > before:
        return typing.cast(T, None)
    try:
        return cls(**arguments)
    except ValueError as error:  # what __post_init__ says of keys that do not go together
        faults.append(f"{document.where(key)}: {error}" if key else f"{document.path}: {error}")
        return typing.cast(T, None)


def _value(hint: Any, value: Any, key: tuple[str, ...], document: Document, faults: list[str]) -> Any:
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint), value, key, document, faults)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list) and (arguments[-1] is ... or len(arguments) == len(value)):
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        return tuple(
            _value(item_hint, item, (*key, str(index)), document, faults)
            for index, (item_hint, item) in enumerate(zip(hints, value, strict=True))
        )
    converted = _convert(hint, value)
    if converted is _BAD:
        near = nearest(value, _choices(hint)) if isinstance(value, str) and _choices(hint) else ""
        faults.append(f"{document.where(key)}: got {value!r}, expected {_name(hint)}{near}")
    return converted


_BAD = object()


def _convert(hint: Any, value: Any) -> Any:
    """`value` as the type `hint`, or _BAD.  YAML 1.1 reads 1e-4 as text, so numbers in text count as numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = _convert(arguments[0], value)
        return converted if converted is not _BAD and converted in arguments[1] else _BAD
    if origin is Literal:
        return value if any(value == choice and type(value) is type(choice) for choice in arguments) else _BAD
    if origin in (typing.Union, types.UnionType):
        return next((found for choice in arguments if (found := _convert(choice, value)) is not _BAD), _BAD)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _BAD
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        items = tuple(_convert(item_hint, item) for item_hint, item in zip(hints, value)) if len(hints) == len(value) else (_BAD,)  # fmt: skip # noqa: E501,B905
        return _BAD if any(item is _BAD for item in items) else items
    if hint is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return _BAD
        return number if math.isfinite(number) else _BAD
    if hint is type(None):
        return None if value is None else _BAD
    return value if type(value) is hint else _BAD


def _choices(hint: Any) -> list[str]:
    """The words a value may be, for the nearest-word hint."""
    if typing.get_origin(hint) is Literal:
        return [str(choice) for choice in typing.get_args(hint)]
    return [
        word for argument in typing.get_args(hint) if not isinstance(argument, Range) for word in _choices(argument)
    ]  # noqa: E501


def _name(hint: Any) -> str:
    """A type as a user would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{_name(arguments[0])} {arguments[1]}"
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_name(argument) for argument in arguments)
    if origin is tuple:
        inner = f"{_name(arguments[0])}, ..." if arguments[-1] is ... else ", ".join(map(_name, arguments))
        return f"[{inner}]"
    return {
        "NoneType": "null",
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true | false",
    }.get(getattr(hint, "__name__", ""), str(hint))
