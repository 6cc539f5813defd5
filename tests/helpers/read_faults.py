"""Faults of the machine in reads of chosen files, by a small C library that decoder processes load first."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from machine_faults import preloading
from paths import HELPERS


@functools.cache
def _compiled() -> tuple[Path, tempfile.TemporaryDirectory]:
    """read_faults.c, compiled once; its folder is removed when this process ends."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the library that makes reads fail")
    folder = tempfile.TemporaryDirectory(prefix="read-faults-")
    library = Path(folder.name) / "read_faults.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HELPERS / "read_faults.c"), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"the library that makes reads fail cannot be compiled: {built.stderr.strip()[:200]}")
    return library, folder


class ReadFaults:
    """Faults for the processes that are started from now on, until `patch` is undone.

    Args:
        patch: sets their environment.
        folder: for the count of the faults.
        name: part of the path of the files.
        how: the error number; or, negative, the signal that the reading process gets.
        start: the first byte that cannot be read.
        times: how many reads fail, in all processes.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, folder: Path, name: str, how: int, start: int = 1000, times: int = 1_000_000
    ) -> None:
        library, _ = _compiled()
        self._log = folder / f"faults-{len(list(folder.glob('faults-*')))}"
        self._log.touch()
        for key, value in {"NAME": name, "HOW": how, "FROM": start, "TIMES": times, "LOG": self._log}.items():
            patch.setenv(f"FAULT_{key}", str(value))
        for key, value in preloading(library).items():
            patch.setenv(key, value)

    @property
    def count(self) -> int:
        """The number of reads that have failed."""
        return self._log.stat().st_size
