"""Writes large arrays to a file past the page cache, where that can be done.

Shards are terabytes that nobody reads back soon.  Copying them into the page cache costs several times the CPU of
handing their pages to the disk (and more once memory is full and older pages have to make room for them).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 4096  # what every disk and file system is content with


class DirectFile:
    """A file that is there, open for writing.

    Args:
        path: the file.

    Attributes:
        fd: its descriptor for reading and writing through the page cache.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR)
        try:
            self._past_cache = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that has no such thing
                raise
            self._past_cache = -1

    def write(self, data: NDArray, offset: int) -> None:
        """Write the bytes of a C-contiguous array; past the cache where array and offset begin at a block.

        Raises:
            OSError: it cannot be written.
        """
        rest = memoryview(data.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        aligned = self._past_cache >= 0 and not data.ctypes.data % BLOCK_BYTES and not offset % BLOCK_BYTES
        while rest:
            whole = len(rest) - len(rest) % BLOCK_BYTES if aligned else 0
            try:
                written = os.pwrite(self._past_cache if whole else self.fd, rest[:whole] if whole else rest, offset)
            except OSError as error:
                if not whole or error.errno != errno.EINVAL:
                    raise
                aligned = False  # a file system that grants direct writes, and then wants larger blocks or none
                continue
            aligned = aligned and not written % BLOCK_BYTES
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        """Close it; a second time does nothing."""
        for fd in (self.fd, self._past_cache):
            if fd >= 0:
                os.close(fd)
        self.fd = self._past_cache = -1
