"""One command at a time writes to a folder of shards or of ledgers, and removes what a killed one left there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from pipeline.common.errors import EXIT_LOCKED, UserError

_OWNER = ".lock.owner"


class LockedError(UserError):
    """Another command is writing to the same folder."""

    exit_code = EXIT_LOCKED


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a store, or the ledgers of a dataset, for one command; the folder is made if need be.

    Raises:
        LockedError: another command has the lock.
        UserError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder}: {error.strerror}; give a folder (make: STORE=DIR)") from None
    lock = filelock.FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LockedError(f"{folder}: {owner(folder) or 'another command'} is writing here; wait for its end") from None
    try:
        (folder / _OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        remove_temporary(folder)  # of a command that was killed: with the lock ours, nobody else writes here
        yield
    finally:
        (folder / _OWNER).unlink(missing_ok=True)
        lock.release()


def remove_temporary(folder: Path) -> None:
    """Delete the unfinished shards and ledgers of a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def owner(folder: Path) -> str:
    """Which command has the lock of a folder, in words; empty when none has."""
    try:
        return (folder / _OWNER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
