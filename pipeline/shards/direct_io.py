"""Writes large arrays to a file without the page cache, where the file system allows it.

Shards are terabytes that are not read back soon.  Copying them into the page cache costs several times the CPU of
passing their pages to the disk (and more once memory is full and older pages must be dropped for them).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 4096  # enough for every disk and file system


class DirectFile:
    """An existing file, open for writing.

    Args:
        path: the file.

    Attributes:
        fd: its descriptor for reading and writing through the page cache.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            self._past_cache = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without direct writes
                raise
            self._past_cache = -1

    def write(self, data: NDArray, offset: int) -> None:
        """Write the bytes of a C-contiguous array; without the cache where array and offset begin at a block.

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
                aligned = False  # a file system that accepts direct writes, but of larger blocks or none
                continue
            aligned = aligned and not written % BLOCK_BYTES
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        """Close it; closing it again does nothing."""
        for fd in (self.fd, self._past_cache):
            if fd >= 0:
                os.close(fd)
        self.fd = self._past_cache = -1
