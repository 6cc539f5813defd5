"""Lets one command at a time write to a folder of shards or ledgers, and deletes what a killed one left there.

The lock is flock(2) on `.lock`, which the kernel releases when its owner ends in any way.  Where the file system has
no flock (ENOSYS), the lock is the existence of `.lock.owner`.  A command that was killed leaves that file: it is
recognised by its process, which has ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.common.errors import EXIT_LOCKED, UserError
from pipeline.common.files import check_regular, create, make_folder, naming

_OWNER = re.compile(r"process (\d+) on (\S+)(?:, started at tick (\d+))?")
_LONGEST = 4096  # bytes of an owner's record that are read
_WAIT_S = 2.0  # for another command of this machine that takes the same lock at this moment


class LockedError(UserError):
    """Another command is writing to the same folder."""

    exit_code = EXIT_LOCKED


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a store, or the folder of a dataset's ledgers, for one command; makes the folder if it is missing.

    Raises:
        LockedError: another command has locked it.
        UserError: the folder cannot be made, or something else than a lock has the lock's name.
        OSError: the lock cannot be made or taken.
    """
    make_folder(folder, "Choose another folder (make: STORE=DIR).")
    with locked_file(folder / ".lock", f"{folder}: {{}} is writing here."):
        remove_temporary(folder)  # left by a command that was killed: we have the lock, so nobody else writes here
        yield


@contextlib.contextmanager
def locked_file(path: Path, message: str) -> Iterator[None]:
    """Hold the lock `path`, with `<path>.owner` beside it that says who does.

    Args:
        path: the lock's file; it stays when the lock is released.
        message: of the LockedError; `{}` is its owner.

    Raises:
        LockedError: another command holds it.
        UserError: a link, a folder, a pipe or a device has one of the two names.
        OSError: the lock cannot be made or taken.
    """
    record = _record_of(path)
    for each in (path, record):
        check_regular(each)
    # Not O_TRUNC, and no link is followed: a name that others can guess must never lead to their choice of file.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if _flock(fd, path, message):
            _write_record(record, os.rename)
        else:
            _take_record(path, record, message)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # one that stays is recognised by its process, which has ended
                record.unlink()  # before the lock is released: the next record is another command's
    finally:
        os.close(fd)


@contextlib.contextmanager
def turn_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block with the same folder, and stay in it alone.

    Where the file system cannot lock folders, as NFS, that is so for the processes of this machine.

    Args:
        folder: an existing folder, in which nothing is left of this.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            stack.enter_context(_alone_on_this_machine(folder))
        yield


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _flock(fd: int, path: Path, message: str) -> bool:
    """Lock an open file; False where the file system cannot.

    Raises:
        LockedError: another process has locked it.
        OSError: any other reason.
    """
    try:
        with naming(path):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            raise _locked(message, _read(_record_of(path)), "Wait until it ends.") from None
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def _take_record(path: Path, record: Path, message: str) -> None:
    """Lock by making the owner's record, of which there can be one; that of a process that has ended is replaced.

    Raises:
        LockedError: another command has the lock.
    """
    with _alone_on_this_machine(path, message, _WAIT_S):
        previous = _read(record)
        if previous and _has_ended(previous):  # on this machine: no other one may judge it, and we are alone here
            record.unlink(missing_ok=True)
        try:
            _write_record(record, os.link)
        except (FileExistsError, FileNotFoundError):  # the latter: the owner has just cleaned up
            advice = f"Wait until it ends. If it was killed on another machine, delete {record}."
            raise _locked(message, _read(record), advice) from None


@contextlib.contextmanager
def _alone_on_this_machine(path: Path, message: str = "", wait_s: float = math.inf) -> Iterator[None]:
    """One process of this machine at a time; the kernel ends it with the process, on every file system.

    Raises:
        LockedError: another process stays here for longer than `wait_s`.
    """
    stat = path.stat()
    give_up = time.monotonic() + wait_s
    with socket.socket(socket.AF_UNIX) as guard:
        while True:
            try:
                guard.bind(f"\0kinetics-lock-{stat.st_dev}-{stat.st_ino}")  # \0: a name in the kernel, not a file
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > give_up:
                    raise _locked(message, "", "Wait until it ends.") from None
                time.sleep(0.02)
        yield


def _write_record(record: Path, publish: Callable[[Path, Path], None]) -> None:
    """Write who we are; the record appears complete, by `publish(temporary, record)`."""
    temporary = record.with_name(f"{record.name}.{secrets.token_hex(8)}.tmp")
    text = f"process {os.getpid()} on {socket.gethostname()}, started at tick {start_of(os.getpid())}"
    fd = create(temporary)
    try:
        with naming(record):
            os.write(fd, text.encode())
        publish(temporary, record)
    finally:
        os.close(fd)
        temporary.unlink(missing_ok=True)


def _locked(message: str, record: str, advice: str) -> LockedError:
    who = record.split(",")[0] if _OWNER.match(record) else "another command"
    return LockedError(f"{message.format(who)} {advice}")


def _has_ended(record: str) -> bool:
    """Whether a record names a process of this machine that does not run any more."""
    match = _OWNER.fullmatch(record)
    if match is None or match[2] != socket.gethostname():
        return False
    start = start_of(int(match[1]))
    return start is None or (match[3] is not None and start != int(match[3]))


def start_of(process: int) -> int | None:
    """When a process started, in clock ticks since this machine did; None: it has ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()  # the name before it may contain anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # Z, X: it has ended, and its parent has not noticed


def _read(record: Path) -> str:
    """An owner's record; empty when there is none."""
    try:
        fd = os.open(record, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        with naming(record):
            return os.read(fd, _LONGEST).decode("utf-8", "replace")
    finally:
        os.close(fd)


def remove_temporary(folder: Path) -> None:
    """Delete the unfinished shards and ledgers of a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def owner(folder: Path) -> str:
    """Which command has locked a folder, in words; empty when none has.

    Raises:
        OSError: it cannot be read.
    """
    return _read(folder / ".lock.owner")
