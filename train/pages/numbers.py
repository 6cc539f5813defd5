"""Numbers as people read them."""

from __future__ import annotations

import math

MISSING = "–"


def count(value: int) -> str:
    """1234 -> 1,234."""
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    """0.5 -> 50.0 %."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else MISSING


def nbytes(value: float) -> str:
    """1500000 -> 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def decimal(value: float, digits: int = 3) -> str:
    """0.12345 -> 0.123."""
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING
