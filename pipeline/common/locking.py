"""Lets one command at a time write to a folder of shards or ledgers, and deletes what a killed one left there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from pipeline.common.errors import EXIT_LOCKED, UserError
from pipeline.common.files import make_folder

_OWNER = ".lock.owner"


class LockedError(UserError):
    """Another command is writing to the same folder."""

    exit_code = EXIT_LOCKED


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a store, or the folder of a dataset's ledgers, for one command; makes the folder if it is missing.

    Raises:
        LockedError: another command has locked it.
        UserError: the folder cannot be made.
    """
    make_folder(folder, "Choose another folder (make: STORE=DIR).")
    lock = filelock.FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LockedError(
            f"{folder}: {owner(folder) or 'another command'} is writing here. Wait until it ends."
        ) from None
    try:
        (folder / _OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        remove_temporary(folder)  # left by a command that was killed: we have the lock, so nobody else writes here
        yield
    finally:
        (folder / _OWNER).unlink(missing_ok=True)
        lock.release()


def remove_temporary(folder: Path) -> None:
    """Delete the unfinished shards and ledgers of a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def owner(folder: Path) -> str:
    """Which command has locked a folder, in words; empty when none has."""
    try:
        return (folder / _OWNER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
