"""A file to which whole records are appended, for the metrics, the log and TensorBoard's events of a run."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from pipeline.common.files import check_regular


class AppendFile:
    """Appends without a buffer, so that a process that is killed loses nothing, and closing has nothing left to write.

    Args:
        path: the file; made if it is missing.  A link is not followed: it may lead to someone else's file.

    Raises:
        UserError: a link, a folder, a pipe or a device has its name.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        check_regular(path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = io.FileIO(os.open(path, flags, 0o666), "ab")

    def write(self, record: bytes) -> None:
        """Append a record.

        Raises:
            OSError: it cannot be written, with the file's name; the file has no part of it.
        """
        end = os.fstat(self._file.fileno()).st_size
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
