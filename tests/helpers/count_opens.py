"""Counts how often shards are opened: each opening compares the seal first."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from pipeline.shards import hdf5


def count_opens(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of openings per file name, from now on; a shard that is being written has its final name."""
    opened: Counter[str] = Counter()
    lock = threading.Lock()
    check = hdf5.check

    def name(path: Path | str) -> str:
        text = Path(path).name
        return text.removeprefix(".").split(".")[0] + ".h5"

    def counted_check(path: Path, fd: int) -> None:
        with lock:
            opened[name(path)] += 1
        check(path, fd)

    patch.setattr(hdf5, "check", counted_check)
    return opened


def once_each(names: list[str]) -> dict[str, int]:
    """The result of `count_opens` if each of these shards is opened once."""
    return dict.fromkeys(names, 1)
