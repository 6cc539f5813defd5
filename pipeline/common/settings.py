"""Turns an experiment file (YAML) and overrides into frozen dataclasses, strictly, for every command.

A section is a frozen dataclass whose annotations give the allowed values; `build` makes it from the YAML mapping.
Nothing is guessed: an unknown, mistyped or out-of-range key is an error that names file, line, key and the nearest
valid key, and all errors are reported at once.  An override keeps its text until the type of its key is known.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.errors import SettingsError
from pipeline.common.text import dotted, shown
from pipeline.common.value_types import (
    MisfitError,
    Typed,
    choices,
    converted_to,
    holds_paths,
    parsed,
    takes_text,
    type_name,
    unexpanded,
)

T = TypeVar("T")

# Keys at the top of a file: the sections, and three plain values.
TOP_KEYS = (
    "model_name", "device_target", "dataset_sink_mode", "context", "model", "learning_rate", "optimizer",
    "loss", "train", "eval", "infer", "export", "data_loader", "preprocess",
)  # fmt: skip

MAX_ERRORS = 20
"""Errors that are listed; all further ones are only counted."""


class Document:
    """An experiment file as read: its values and the line of each key.

    Attributes:
        path: the YAML file, or None when there is none.
        values: the nested mapping; overrides in it are `Typed`.
        overrides: the text given with each dotted key.

    Raises:
        SettingsError: the file is missing, is not a YAML mapping, repeats a key or has an unknown section.
    """

    def __init__(self, path: Path | str | None, overrides: dict[str, str] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.values: dict[str, Any] = {}
        self.overrides = dict(overrides or {})
        self._lines: dict[tuple[str, ...], str] = {}
        if self.path is not None:
            from pipeline.common.yaml_file import read_mapping

            self.values, lines = read_mapping(self.path)
            self._lines = {key: f"{self.path}:{line}" for key, line in lines.items()}
        for name, text in self.overrides.items():
            self._override(name, text)
        errors = Errors(self)
        for section in self.values:
            if section not in TOP_KEYS:
                errors.add((section,), "unknown section", section, TOP_KEYS)
        errors.raise_any()

    def where(self, key: tuple[str, ...]) -> str:
        """`file:line: section.key`, for error messages; a missing key has the line of its closest parent."""
        for length in range(len(key), 0, -1):
            line = self._lines.get(key[:length], "")
            if line == f"--{dotted(key)}":
                return line
            if line:
                return f"{line}: {dotted(key)}"
        return f"{self.path or 'defaults'}: {dotted(key)}" if key else str(self.path or "defaults")

    def overrides_named(self, words: Collection[str], parents: Collection[tuple[str, ...]]) -> list[str]:
        """The overrides, as `--section.key`, of keys that `words` name completely or, below one of `parents`, alone."""
        names = []
        for key, line in self._lines.items():
            alone = any(parent and key[: len(parent)] == parent and key[-1] in words for parent in parents)
            if line.startswith("--") and key not in parents and (alone or ".".join(key) in words):
                names.append(line)
        return names

    def overridden(self, *section: str) -> set[str]:
        """The keys of a section that overrides give; all keys of the section if an override gives the whole section."""
        depth = len(section)
        keys = {key for key, line in self._lines.items() if key[:depth] == section and line.startswith("--")}
        if section in keys:
            values: Any = self.values
            for name in section:
                values = values[name]
            return set(parsed(values) if isinstance(values, Typed) else values)
        return {key[depth] for key in keys}

    def copy_key(self, source: tuple[str, ...], section: str, name: str) -> None:
        """Copy the text of the key `source`, if it has one, to `section.name`, unless that is given."""
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
            if node.get(parent) is None:  # missing, or a section without keys
                node[parent] = {}
            if isinstance(node[parent], Typed):  # --preprocess={...} and then --preprocess.fps=3
                node[parent] = parsed(node[parent])
            node = node[parent]
            if not isinstance(node, dict):
                raise SettingsError(f"--{name}: {'.'.join(parents[: depth + 1])} has no keys")
        node[leaf] = Typed(text)
        replaced = tuple(name.split("."))
        self._lines = {key: line for key, line in self._lines.items() if key[: len(replaced)] != replaced}
        self._lines[tuple(name.split("."))] = f"--{name}"


class Errors:
    """The errors of a configuration; messages are made for the first MAX_ERRORS only."""

    def __init__(self, document: Document) -> None:
        self.count = 0
        self._document = document
        self._lines: list[str] = []

    def add(
        self, key: tuple[str, ...], problem: str, got: str = "", allowed: Collection[str] = (), list_all: bool = True
    ) -> None:
        """Add an error.

        Args:
            key: the key that is wrong.
            problem: what is wrong.
            got: the word that was given, for the nearest allowed one.
            allowed: the allowed words, if the key takes words.
            list_all: name all of them if none is near; not where `problem` names them.
        """
        self.count += 1
        if self.count <= MAX_ERRORS:
            hint = nearest_hint(got, allowed, list_all) if allowed and got else ""
            self._lines.append(f"{self._document.where(key)}: {problem}{hint}")

    def add_contradiction(self, section: tuple[str, ...], problem: str) -> None:
        """Add an error about several keys of a section.

        It is named by the key that `problem` begins with; overrides of other keys in it follow, since one may be the
        cause.

        Args:
            section: the section.
            problem: what is wrong; its keys are relative to the section, or begin with a section of the file.
        """
        first, colon, rest = problem.partition(": ")
        key = (*section, *first.split("."))
        if not colon or not re.fullmatch(r"[a-z_]+(?:\.[a-z_]+)*", first):
            key, rest = section, problem
        words = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)*", problem))
        typed = self._document.overrides_named(words, (key, section))
        self.add(key, rest + (f" (given: {', '.join(typed)})" if typed else ""))

    def raise_any(self) -> None:
        """Raise all errors as one.

        Raises:
            SettingsError: there is at least one error.
        """
        if self.count:
            more = [f"and {self.count - MAX_ERRORS:,} more"] if self.count > MAX_ERRORS else []
            raise SettingsError("\n".join(self._lines + more))


def build(cls: type[T], document: Document, section: str = "") -> T:
    """Turn one section (or, with no name, the whole document) into the frozen dataclass `cls`.

    Raises:
        SettingsError: every error found, one a line.
    """
    errors = Errors(document)
    key = (section,) if section else ()
    values = document.values.get(section, {}) if section else document.values
    result = _dataclass(cls, values, key, document, errors)
    errors.raise_any()
    return result


def nearest_hint(got: str, allowed: Collection[str], list_all: bool = True) -> str:
    """`; nearest valid: x`, for the end of an error message; the whole list, or nothing, if none is near."""
    import difflib  # takes 5 ms, and only errors need it

    in_small_letters = {word.lower(): word for word in allowed}
    close = difflib.get_close_matches(got.lower(), in_small_letters, n=1, cutoff=0.5)
    if close:
        return f"; nearest valid: {in_small_letters[close[0]]}"
    return f"; valid: {', '.join(allowed)}" if list_all else ""


def to_plain(value: Any) -> Any:
    """The YAML form of a built section: nested dictionaries, lists, numbers and text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def to_file(value: Any) -> Any:
    """As `to_plain`, with paths as a file must have them, so that reading the file gives the same section."""
    hints = typing.get_type_hints(type(value), include_extras=True)
    plain = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            plain[field.name] = to_file(item)
        elif holds_paths(hints[field.name]) and item is not None:
            plain[field.name] = unexpanded(item) if isinstance(item, str) else [unexpanded(path) for path in item]
        else:
            plain[field.name] = to_plain(item)
    return plain


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, or dataclasses.MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _dataclass(
    cls: type[T], values: Any, key: tuple[str, ...], document: Document, errors: Errors, defaults: T | None = None
) -> T:
    """A section; keys that are not given get their values from `defaults`, or else the defaults of the class."""
    values = parsed(values) if isinstance(values, Typed) else values
    if values is None:
        values = {}
    if not isinstance(values, dict):
        errors.add(key, f"expected keys, got {shown(values)}")
        return typing.cast(T, None)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls, include_extras=True)
    before = errors.count
    for name in values:
        if name not in fields:
            errors.add((*key, name), "unknown key", name, fields)
    arguments = {}
    for name, field in fields.items():
        default = default_of(field) if defaults is None else getattr(defaults, name)
        if name in values and not dataclasses.is_dataclass(hints[name]):
            arguments[name] = _value(hints[name], values[name], (*key, name), document, errors)
        elif name in values or (default is dataclasses.MISSING and dataclasses.is_dataclass(hints[name])):
            inherited = None if default is dataclasses.MISSING else default
            arguments[name] = _dataclass(hints[name], values.get(name), (*key, name), document, errors, inherited)
        elif default is dataclasses.MISSING:
            errors.add((*key, name), f"missing, expected {type_name(hints[name])}")
        else:
            arguments[name] = default
    if errors.count > before:
        return typing.cast(T, None)
    try:
        return cls(**arguments)
    except ValueError as error:  # from __post_init__: keys that contradict each other
        errors.add_contradiction(key, str(error))
        return typing.cast(T, None)


def _value(hint: Any, value: Any, key: tuple[str, ...], document: Document, errors: Errors) -> Any:
    """A value as the type `hint`, or an error; each item of a list can have its own error."""
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint), value, key, document, errors)
    if isinstance(value, Typed) and not takes_text(hint):
        value = parsed(value)
    lists = [choice for choice in (hint, *typing.get_args(hint)) if typing.get_origin(choice) is tuple]
    arguments = typing.get_args(lists[0]) if lists else ()
    if arguments and isinstance(value, list) and (arguments[-1] is ... or len(arguments) == len(value)):
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        return tuple(
            _value(item_hint, item, (*key, str(index)), document, errors)
            for index, (item_hint, item) in enumerate(zip(hints, value, strict=True))
        )
    try:
        return converted_to(hint, value)
    except MisfitError as misfit:
        got = parsed(value) if isinstance(value, Typed) else value
        problem = f"got {shown(got)}, expected {str(misfit) or type_name(hint)}"
        allowed = choices(hint)
        words = [item for item in (got if isinstance(got, list) else [got]) if isinstance(item, str)]
        errors.add(key, problem, next((word for word in words if word not in allowed), ""), allowed, list_all=False)
        return None
