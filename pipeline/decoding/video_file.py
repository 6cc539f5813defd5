"""Opens a video once and checks it; every decoder then reads that open file, whatever becomes of its path.

A file that is named here may be a link out of data_root by now, or another file may have its name: what is checked is
the open file.  An error of the system while it is read is one of the machine, never of the video.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from isal import isal_zlib

MAX_SIZE_BYTES = 4 << 30
_PART_BYTES = 1 << 20
_COPIED_BYTES = 256 << 20  # a larger file is not copied into memory
# Errors of a path: what it names is not there, or may not be read.  All others are of the machine.
_OF_THE_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}


class DecodeError(RuntimeError):
    """A video cannot be stored.

    Attributes:
        status: the status for its ledger row.
        reason: one line that names no path.
        facts: the ledger's columns about the source, as far as they are known.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, " ".join(reason.split())[:300]
        self.facts: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class ReadError(OSError):
    """The machine could not read a video; nothing is known of the video by that."""


def _raise(error: OSError) -> NoReturn:
    """Raise what an error of the system says.

    Raises:
        DecodeError: the path names nothing, or may not be read.
        ReadError: the machine failed.
    """
    if error.errno in _OF_THE_PATH:
        raise DecodeError("io", error.strerror or "no access") from None
    raise ReadError(error.errno, error.strerror or "cannot be read") from None


class VideoFile:
    """An open regular file that decoders may read.

    A context manager.

    Args:
        fd: its descriptor, which this object owns.
        name: the name of the file; FFmpeg looks at its ending where the content does not show the container.

    Attributes:
        name: as given.
        size: bytes when it was opened.
        read_error: the first error of a read by `Stream`, which FFmpeg may hide; None: there was none.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self.name = fd, name
        self.size = os.fstat(fd).st_size
        self.read_error: ReadError | None = None

    @property
    def path(self) -> str:
        """A path that opens this very file, in this process."""
        return f"/proc/self/fd/{self._fd}"

    def has_changed(self) -> bool:
        """Whether it has another size now, or was deleted."""
        status = os.fstat(self._fd)
        return status.st_size != self.size or not status.st_nlink

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """At most `nbytes` bytes; fewer at the end of the file.

        Raises:
            ReadError: the machine failed.
        """
        try:
            return os.pread(self._fd, nbytes, offset)
        except OSError as error:
            self.read_error = self.read_error or ReadError(error.errno, error.strerror)
            raise self.read_error from None

    def crc32(self) -> int:
        """CRC-32 of the whole file.

        Raises:
            ReadError: the machine failed.
        """
        crc = offset = 0
        while part := self.read_at(offset, _PART_BYTES):
            crc, offset = isal_zlib.crc32(part, crc), offset + len(part)
        return crc

    def in_memory(self) -> VideoFile:
        """A copy in memory, in which no fault of a disk can be; the same file again if it is large and can be read.

        Raises:
            ReadError: the machine failed.
        """
        if self.size > _COPIED_BYTES:
            self.crc32()
            return VideoFile(os.dup(self._fd), self.name)
        fd, offset = os.memfd_create("video"), 0
        try:
            while part := self.read_at(offset, _PART_BYTES):
                os.write(fd, part)
                offset += len(part)
            return VideoFile(fd, self.name)
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Stream:
    """A video file as PyAV reads it."""

    def __init__(self, file: VideoFile) -> None:
        self._file, self._position = file, 0
        self.name = file.name

    def read(self, nbytes: int) -> bytes:
        """The next bytes; none at the end, and where the machine fails, which `VideoFile.read_error` then says."""
        try:
            part = self._file.read_at(self._position, nbytes)
        except ReadError:  # PyAV would print it
            return b""
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position


def open_video(path: Path, root: str = "", most_bytes: int | None = None) -> VideoFile:
    """Open a video for reading.

    Args:
        path: the file, or a link to it.
        root: the folder in which the file itself must be; empty: anywhere.
        most_bytes: size that it may have; None: MAX_SIZE_BYTES.

    Raises:
        DecodeError: it is not there, may not be read, is outside `root`, is no regular file, is empty or too large.
        ReadError: the machine failed.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # opens nothing: a FIFO would wait for its writer
        try:
            _check(place, root, MAX_SIZE_BYTES if most_bytes is None else most_bytes)
            fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
    except OSError as error:
        _raise(error)
    return VideoFile(fd, path.name)


def _check(place: int, root: str, most_bytes: int) -> None:
    """Check what a path led to, by its descriptor."""
    status = os.fstat(place)
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("io", "not a regular file")
    if root and not _real(place).startswith(os.path.join(_real_folder(root), "")):
        raise DecodeError("io", "symlink out of data_root")
    if not status.st_size:
        raise DecodeError("unreadable", "empty file")
    if status.st_size > most_bytes:
        raise DecodeError("too_large", f"{status.st_size} bytes, at most {most_bytes}")


def _real(place: int) -> str:
    """The path of an open file without links, as the system has it."""
    return os.readlink(f"/proc/self/fd/{place}")


def _real_folder(folder: str) -> str:
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _real(place)
    finally:
        os.close(place)
