"""Holds the decoders of a run at a video, so that a test can act while the run cannot end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from paths import HELPERS, ROOT

HOLDING = {"PYTHONPATH": os.pathsep.join(map(str, (HELPERS / "holding", ROOT)))}
"""The environment of a run whose decoders can be held; holding/sitecustomize.py is what they do."""


@contextlib.contextmanager
def held(video: Path) -> Iterator[Path]:
    """Until the end of the block decoders wait before they open `video`; the file that exists when one does."""
    hold, reached = (video.with_name(video.name + ending) for ending in (".hold", ".held"))
    hold.touch()
    try:
        yield reached
    finally:
        hold.unlink()
        reached.unlink(missing_ok=True)
