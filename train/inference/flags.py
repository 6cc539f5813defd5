"""The flags of train.infer, which train.check takes too."""

from __future__ import annotations

import argparse
import contextlib
import math
from pathlib import Path

from pipeline.common.recipe import SPLITS


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of infer, besides those of every command."""
    add = parser.add_argument
    add("--split", choices=SPLITS, help="predict the stored videos of this split, not files (make: SPLIT=val)")
    add("--window", type=_seconds, metavar="SECONDS", help="look at every SECONDS of each file, whatever its length")
    add("--top-k", type=_at_least_one, default=5, metavar="K", help="classes shown of each video (default 5)")
    add("--json", action="store_true", help="print one JSON object a line, and nothing else")
    add("--csv", type=Path, metavar="FILE", help="write a CSV with a row for each video")
    add("--no-pictures", action="store_true", help="draw nothing")
    add("--picture-seconds", type=_seconds, default=10.0, metavar="S", help="seconds of a video drawn (default 10)")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)) and value > 0:
            return value
    raise argparse.ArgumentTypeError(f"got {text!r}, expected seconds above 0")


def _at_least_one(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
