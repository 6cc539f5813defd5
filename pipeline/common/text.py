"""Parts of messages that several modules print, and the one function that makes any text safe to print."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any

# What acts on a terminal or changes the order of what is shown: control characters but line feed and tab, marks of
# direction, other line ends, invisible characters (not the joiners that Persian and Hindi need), tags, lone surrogates.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


# A file can nest containers that share their parts so that Python's own text of them would never end.
_bounded = reprlib.Repr()
_bounded.maxlevel = 3
_bounded.maxtuple = _bounded.maxlist = _bounded.maxdict = _bounded.maxset = 12
_bounded.maxstring = _bounded.maxother = 100


def visible(text: str) -> str:
    """`text` with every character that acts on a terminal escaped as in `repr`; line feed and tab stay.

    cli.run and cli.set_up_logging apply it to all that a command prints and logs, so that callers need not.
    """
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def some(ids: Iterable[str], shown: int = 5) -> str:
    """The first `shown` of many names, and how many more there are."""
    names = list(ids)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def shown(value: Any, longest: int = 80) -> str:
    """`repr(value)` for a message: one line, and cut where it is long."""
    text = _bounded.repr(value) if isinstance(value, (tuple, list, dict, set)) else repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def printable(name: str) -> str:
    """A name from a file for a message: as it is, or quoted and cut if it has control characters or is long."""
    return name if name.isprintable() and len(name) <= 255 else shown(name)


def dotted(key: Iterable[str]) -> str:
    """A key of a configuration for a message, `section.key`; words that nobody types are cut and quoted."""
    return ".".join(word if len(word) <= 60 and (word.isprintable() or not word) else shown(word, 60) for word in key)
