"""One run at a time writes to a store; what a killed one left is swept when the lock is taken."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from pipeline import cli
from pipeline.settings import UserError

_OWNER = ".lock.owner"


class LockedError(UserError):
    """Another run is writing to the same store."""

    exit_code = cli.EXIT_LOCKED


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the store for one run.

    Raises:
        LockedError: another run holds it.
        UserError: no folder can be there.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"preprocess.store: {store}: {error.strerror}; give a folder with STORE=DIR") from None
    lock = filelock.FileLock(str(store / ".lock"))
    owner = store / _OWNER
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another run"
        raise LockedError(f"{store}: {who} is writing here; wait for it or use another STORE=DIR") from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        remove_temporary(store)  # of a run that was killed: the lock is ours, so nobody writes it
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def remove_temporary(store: Path) -> None:
    """Delete unfinished shards."""
    for leftover in store.glob(".*.h5.tmp"):
        leftover.unlink(missing_ok=True)


def owner(store: Path) -> str:
    """Which run holds a store, in words; empty when none does."""
    try:
        return (store / _OWNER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
