"""Parts of messages that several modules print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def some(ids: Iterable[str], shown: int = 5) -> str:
    """The first `shown` of many names, and how many more there are."""
    names = list(ids)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def shown(value: Any, longest: int = 80) -> str:
    """`repr(value)` for a message: one line, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def printable(name: str) -> str:
    """A name from a file for a message: as it is, or quoted and cut if it has control characters or is long."""
    return name if name.isprintable() and len(name) <= 255 else shown(name)


def dotted(key: Iterable[str]) -> str:
    """A key of a configuration for a message, `section.key`; words that nobody types are cut and quoted."""
    return ".".join(word if len(word) <= 60 and (word.isprintable() or not word) else shown(word, 60) for word in key)
