"""Atomic writes: a file has its old or its new content, even if the program is killed or the power fails."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import MachineError, UserError, is_of_a_name, reason_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_work_is_kept = False
_unfinished: set[Path] = set()


def keep_work() -> None:
    """Note that something which took long, such as a shard, is on the disk for the next run."""
    global _work_is_kept
    _work_is_kept = True


def work_is_kept() -> bool:
    """Whether this process has called `keep_work`."""
    return _work_is_kept


@contextlib.contextmanager
def naming(path: Path | str, temporary: Path | None = None) -> Iterator[None]:
    """Name a file in the OSErrors of the block that name none: those of reading, writing and locking a descriptor.

    Args:
        path: the file.
        temporary: its temporary name; errors that have this name get the other.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename) == str(temporary)):
            error.filename = str(path)
        raise


class _Readable(io.FileIO):
    """A file whose errors name it; a read that would have to wait is an error, not None as in Python's."""

    def readinto(self, buffer: Buffer) -> int:
        with naming(self.name):
            count = super().readinto(buffer)
            if count is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return count


def open_to_read(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes, with errors that name it.

    Raises:
        OSError: it is missing or cannot be opened; reading raises it, too.
    """
    return io.BufferedReader(_Readable(path), 1 << 18)


def check_regular(path: Path) -> bool:
    """Whether a file of our own exists; anything else under its name may have been planted there.

    Raises:
        UserError: a link, a folder, a pipe or a device is there.
        OSError: it cannot be looked at.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UserError(f"{path}: got {kind}, expected a regular file or none. Remove it and run the same command.")
    return True


def create(path: Path) -> int:
    """Create a file whose name others can guess, and open it for reading and writing; returns its descriptor.

    What is there under that name, left by a killed process or planted, is removed; a link is never followed.

    Raises:
        OSError: it cannot be created.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Within it, a file is written that is of no use yet: it is removed at the end, and by `remove_unfinished`."""
    _unfinished.add(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Remove what this process has not finished writing; for a process that ends without Python's cleaning up."""
    for path in list(_unfinished):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Write a file under a temporary name beside `path`; it replaces `path` when the block ends without an error.

    The new content is on the disk before the name changes.  After an error the temporary file is removed.  If the
    process is killed, `locking.remove_temporary` or `checkpoint.remove_unfinished` removes it later.

    Args:
        path: the file to write; its folder must exist.
        suffix: ending of the temporary name, for libraries that require one.

    Yields:
        The temporary path, `.<name>.<pid>.tmp<suffix>`: an empty file.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    with unfinished(temporary), naming(path, temporary):
        os.close(create(temporary))
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file, atomically.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, atomically.

    Raises:
        OSError: as `replacing`.
    """
    write_text(path, json.dumps(content, indent=1))


def make_folder(folder: Path, what_next: str) -> None:
    """Make a folder, and those above it, unless it exists.

    Args:
        folder: the folder.
        what_next: what the user can do if it cannot be made.

    Raises:
        UserError: a part of its path is a file, or the system allows no folder there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder}: {error.strerror}. {what_next}") from None


def existing_folder(folder: Path) -> Path:
    """A folder if it exists, else the nearest one above it that does."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return existing


def try_folder(folder: Path, what_next: str) -> None:
    """Make a folder and write there, before hours of computing.

    Args:
        folder: the folder.
        what_next: what the user can do if it cannot be made.

    Raises:
        UserError: a part of its path is a file, or no name for a folder.
        MachineError: it cannot be written.
    """
    try:
        make_folder(folder, what_next)
        with tempfile.TemporaryDirectory(prefix=".try-", dir=folder):
            pass
    except OSError as error:
        kind = UserError if is_of_a_name(error) else MachineError
        raise kind(f"{folder}: cannot be written: {reason_of(error)}. {what_next}") from None


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path)


def sync_folder(path: Path) -> None:
    """Wait until the entries of a folder are on the disk: which files are in it, under which names."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
