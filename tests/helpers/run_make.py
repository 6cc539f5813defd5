"""Runs verbs of the Makefile with a stub in Python's place, which notes the words that each command receives."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from paths import ROOT

# A word may hold line ends and may be empty: each one follows a `=` and ends with a NUL, and a command ends with `.`.
STUB = """#!/bin/sh
printf '=%s\\0' "$@" >> calls
printf '.' >> calls
echo "out of $2"
"""


@dataclass
class Made:
    """What a run of make did.

    Attributes:
        code: its exit code.
        out: its stdout.
        err: its stderr.
        calls: the words of each command, without Python itself; a word that is not UTF-8 has surrogates.
    """

    code: int
    out: str
    err: str
    calls: list[list[str]] = field(default_factory=list)

    def words(self, module: str) -> list[str]:
        """The words of the only call of a module, without `-m` and its name."""
        (words,) = [call[2:] for call in self.calls if call[:2] == ["-m", module]]
        return words


def clone(folder: Path) -> Path:
    """A folder in which `run_make` works: the Makefile, and a .venv that is up to date and has the stub."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for stamp in (".installed", ".gpu", ".lint"):
        (folder / ".venv" / stamp).touch()
    python = folder / ".venv" / "bin" / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    return folder


def environment_of_make(**more: str) -> dict[str, str]:
    """The environment of a make that a test starts, without what `make test` exports (ARGS, MAKEFLAGS)."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **more}


def run_make(folder: Path, *words: str, **environment: str) -> Made:
    """Run make in a clone without the variables of `make test`; `environment` is added to that of make."""
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    clean = environment_of_make(**environment)
    done = subprocess.run(["make", *words], cwd=folder, env=clean, capture_output=True, timeout=300)
    noted = os.fsdecode(calls.read_bytes()) if calls.exists() else ""
    split = [[word.removeprefix("=") for word in call.split("\0")] for call in noted.split("\0.")[:-1]]
    return Made(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr), split)
