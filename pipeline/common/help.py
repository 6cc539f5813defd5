"""The keys of a configuration for --help: the meaning, type and default of each.

The meanings are read from `Attributes:` in the dataclasses' docstrings, so they are written only once.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pipeline.common.settings import default_of, to_plain
from pipeline.common.value_types import type_name

WIDTH = 120


def meanings(cls: type) -> dict[str, str]:
    """The meaning of each field of a dataclass, in one line: the `Attributes:` of its docstring."""
    _, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        if starts := re.match(r" {4}(\w+): (.*)", line):
            name, texts[starts[1]] = starts[1], starts[2]
        elif line.startswith(" " * 8) and name:
            texts[name] += f" {line.strip()}"
        else:
            break
    return texts


def key_lines(sections: dict[str, type], shown: tuple[str, ...] = ()) -> list[str]:
    """The keys of sections, each with its type, default and meaning, in lines of at most WIDTH columns.

    Args:
        sections: dataclass of each section by name; the one named "" is the whole configuration.
        shown: names of keys, or beginnings of names that end with a dot; empty: all keys.
    """
    lines = []
    for section, cls in sections.items():
        for name, hint, default, meaning in _keys(cls, f"{section}." if section else "", None):
            if not shown or name in shown or name.startswith(tuple(word for word in shown if word.endswith("."))):
                text = f"--{name}={_text(default)}  ({type_name(hint)})  {meaning}"
                lines += textwrap.wrap(
                    text, WIDTH, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False
                )
    return lines


def _keys(cls: type, prefix: str, defaults: Any) -> Iterator[tuple[str, Any, Any, str]]:
    """Name, type, default and meaning of each key; `defaults` is an instance of `cls`, or None for its own."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = meanings(cls)
    for field in dataclasses.fields(cls):
        default = default_of(field) if defaults is None else getattr(defaults, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            inner = None if default is dataclasses.MISSING else default
            yield from _keys(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.", inner)
        else:
            yield f"{prefix}{field.name}", hints[field.name], default, texts.get(field.name, "")


def _text(default: Any) -> str:
    """A default as it would be typed."""
    if default is dataclasses.MISSING:
        return "..."
    if isinstance(default, str):
        return default
    return f"{default:g}" if isinstance(default, float) else json.dumps(to_plain(default))
