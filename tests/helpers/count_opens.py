"""Counts how often shards are opened, both by the comparison of their seals and by libhdf5."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.shards import hdf5


def count_opens(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of openings per file name, from now on; a shard that is being written has its final name."""
    opened: Counter[str] = Counter()
    lock = threading.Lock()
    check, file_class = hdf5.check, hdf5.h5py.File

    def name(path: Path | str) -> str:
        text = Path(path).name
        return text.removeprefix(".").split(".")[0] + ".h5"

    def counted_check(path: Path) -> None:
        with lock:
            opened[name(path)] += 1
        check(path)

    def counted_file(path: Path, mode: str, **options: Any) -> Any:
        with lock:
            opened["by libhdf5: " + name(path)] += mode == "r"
        return file_class(path, mode, **options)

    patch.setattr(hdf5, "check", counted_check)
    patch.setattr(hdf5.h5py, "File", counted_file)
    return opened


def once_each(names: list[str]) -> dict[str, int]:
    """The result of `count_opens` if each of these shards is opened once."""
    return {key: 1 for name in names for key in (name, f"by libhdf5: {name}")}
