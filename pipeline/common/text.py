"""Parts of messages that several modules print."""

from __future__ import annotations

from collections.abc import Iterable


def some(ids: Iterable[str], shown: int = 5) -> str:
    """The first `shown` of many names, and how many more there are."""
    names = list(ids)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")
