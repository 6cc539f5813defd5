"""Reads YAML as mappings, lists, texts, numbers, booleans and null, with the line of each key.

The file may come from a stranger, so its size, its nesting and the number of its values after aliases are limited.
Values are made from the parser's events, not by YAML's constructors, so a tag cannot make an object and a date stays
text.  Import this module only to read a file: yaml takes 15 ms to load, in each decoder process too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import SafeConstructor

from pipeline.common.errors import SettingsError, is_of_a_name
from pipeline.common.files import open_to_read
from pipeline.common.text import dotted, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values of a document after its aliases are expanded; a file of MAX_BYTES without aliases has fewer."""

_LONGEST_NUMBER = 100  # characters; Python does not read or print whole numbers with thousands of digits
_TAG = "tag:yaml.org,2002:"
_RESOLVER = yaml.resolver.Resolver()
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Lines = dict[tuple[str, ...], int]


class YamlError(ValueError):
    """Text that is not YAML, or YAML that is refused.

    Attributes:
        line: its line, from 1; 0 if it is not known.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class RepeatedKeyError(YamlError):
    """A mapping with a repeated key."""


class _Node(NamedTuple):
    """A value with all values inside it; one with an anchor can be used in several places."""

    line: int
    value: Any  # a scalar, a list of _Node, or a dict of key -> (line of the key, _Node)


def read_mapping(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, and the line of each key; a list's items have the keys "0", "1", ...

    Raises:
        SettingsError: the file is missing, not a regular file, too large, or not a YAML mapping.
        OSError: it cannot be read for another reason.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait forever
            raise SettingsError(f"{path}: expected a configuration file (-c FILE), got a folder, a pipe or a device")
        with open_to_read(path) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such configuration file (give another with -c FILE)") from None
    except OSError as error:
        if not isinstance(error, (PermissionError, NotADirectoryError)) and not is_of_a_name(error):
            raise
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{path}: cannot be read as YAML: larger than {MAX_BYTES // 1024} KiB")
    try:
        root = _Reader(_decoded(content)).document()
        lines: Lines = {}
        values = _Expansion(lines).plain(root, (), 0)
    except RepeatedKeyError as error:
        raise SettingsError(f"{path}:{error.line}: {error}") from None
    except YamlError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise SettingsError(f"{where}: cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        kind = "nothing" if values is None else "a list" if isinstance(values, list) else "one value"
        raise SettingsError(f"{path}: expected a mapping of sections, got {kind}")
    return values, lines


def parse_value(text: str, *, as_texts: bool = False) -> Any:
    """The value of a YAML text.

    Args:
        text: such as `[1, 2]`.
        as_texts: keep scalars as they are written.

    Raises:
        YamlError: it is not YAML, or is refused.
    """
    return _Expansion({}).plain(_Reader(str(text), as_texts=as_texts).document(), (), 0)


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError("not UTF-8", content.count(b"\n", 0, error.start) + 1) from None


class _Reader:
    """Makes nodes from the parser's events of one text."""

    def __init__(self, text: str, *, as_texts: bool = False) -> None:
        self._events = _events(text)
        self._as_texts = as_texts
        self._anchors: dict[str, _Node | None] = {}  # None while the node is being read
        self._num_merged = 0

    def document(self) -> _Node:
        """The only document; null if there is none.

        Raises:
            YamlError: it is not YAML, or is refused.
        """
        root = _Node(1, None)
        for number, event in enumerate(event for event in self._events if isinstance(event, yaml.DocumentStartEvent)):
            if number:
                raise YamlError("expected one document, got a second one", event.start_mark.line + 1)
            root = self._node(next(self._events), (), 0)
        return root

    def _node(self, event: yaml.Event, key: tuple[str, ...], depth: int) -> _Node:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise YamlError(f"unknown alias *{dotted((event.anchor,))}", line)
            known = self._anchors[event.anchor]
            if known is None:
                raise YamlError(f"the anchor &{dotted((event.anchor,))} contains itself", line)
            return known
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(line, event.value if self._as_texts else _scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            _refuse_tag(event, "seq")
            items: list[_Node] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, (*key, str(len(items))), depth + 1))
            node = _Node(line, items)
        else:
            _refuse_tag(event, "map")
            node = _Node(line, self._mapping(key, depth))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, key: tuple[str, ...], depth: int) -> dict[str, tuple[int, _Node]]:
        own: dict[str, tuple[int, _Node]] = {}
        merged: dict[str, tuple[int, _Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlError("expected a word as a key, got a list, a mapping or an alias", line)
            name = event.value  # always text, though YAML 1.1 reads `on`, `no` and 1 as values
            value = self._node(next(self._events), (*key, name), depth + 1)
            if name == "<<" and event.implicit[0]:
                # A mapping's own keys win over merged ones, and the first merged mapping over later ones.
                for source in reversed(value.value if isinstance(value.value, list) else [value]):
                    if not isinstance(source.value, dict):
                        raise YamlError("<<: expected a mapping or a list of mappings", line)
                    self._num_merged += len(source.value)
                    if self._num_merged > MAX_VALUES:
                        raise YamlError(f"more than {MAX_VALUES:,} values", line)
                    merged.update(source.value)
            elif name in own:
                raise RepeatedKeyError(f"{dotted((*key, name))}: given twice", line)
            else:
                own[name] = (line, value)
        return {**merged, **own}


class _Expansion:
    """Turns nodes into plain values with the line of each key; counts them, as an alias of few bytes repeats many."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._count = 0

    def plain(self, node: _Node, key: tuple[str, ...], depth: int) -> Any:
        """The value of a node and of all nodes inside it.

        Raises:
            YamlError: there are too many values, or they are nested too deeply.
        """
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            limit = f"{MAX_VALUES:,} values" if self._count > MAX_VALUES else f"{MAX_DEPTH} levels"
            raise YamlError(f"more than {limit} once its aliases are expanded", node.line)
        if isinstance(node.value, list):
            items = []
            for number, item in enumerate(node.value):
                self._lines[(*key, str(number))] = item.line
                items.append(self.plain(item, (*key, str(number)), depth + 1))
            return items
        if isinstance(node.value, dict):
            values = {}
            for name, (line, item) in node.value.items():
                self._lines[(*key, name)] = line
                values[name] = self.plain(item, (*key, name), depth + 1)
            return values
        return node.value


def _events(text: str) -> Iterator[yaml.Event]:
    """The parser's events; its errors become one line.  libyaml's parser does not recurse."""
    try:
        yield from yaml.parse(text, Loader=_PARSER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(word for word in (error.problem, error.context) if word)
        raise YamlError(words, mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise YamlError(" ".join(str(error).split())) from None


def _refuse_tag(event: yaml.Event, kind: str) -> None:
    if event.tag not in (None, "!", _TAG + kind):
        raise YamlError(f"got the tag {shown(event.tag)}, expected a value without one", event.start_mark.line + 1)


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Text, number, boolean or null; a date is text."""
    text, tag = event.value, event.tag
    if tag in ("!", _TAG + "str") or (tag is None and not event.implicit[0]):  # usually quoted
        return text
    meant = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) if len(text) <= _LONGEST_NUMBER else _TAG + "str"
    if tag == _TAG + "float" and meant == _TAG + "int":
        meant = tag
    if tag is not None:
        _refuse_tag(event, meant.removeprefix(_TAG))
    if meant == _TAG + "null":
        return None
    if meant == _TAG + "bool":
        return SafeConstructor.bool_values[text.lower()]
    node = yaml.ScalarNode(meant, text)
    try:
        if meant == _TAG + "int":
            return SafeConstructor().construct_yaml_int(node)
        if meant == _TAG + "float":
            return SafeConstructor().construct_yaml_float(node)
    except ValueError:  # such as 0x_, which YAML reads as a number
        return text
    return text
