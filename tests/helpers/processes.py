"""Finds the processes of a run in /proc, for tests that no process stays behind; whether one lives, and its memory."""

import contextlib
from pathlib import Path

from pipeline.common.locking import start_of


def processes_of(*words: str) -> list[int]:
    """The ids of the processes whose command line contains all `words`."""
    ids = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            line = entry.read_bytes()
            if all(word.encode() in line for word in words):
                ids.append(int(entry.parent.name))
    return ids


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or one that its parent has not reaped."""
    return start_of(pid) is None


def peak_of(pid: int | str) -> int:
    """The most memory that a process, a number or `self`, has had so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10
