"""Passes one video's bytes from the process that decodes to the process that stores.

Both map the same anonymous memory.  The child's reply says how to read it.
"""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.encoding import Encoded

_KEPT_BYTES = 64 << 20  # memory that is kept between videos
_GROWTH_BYTES = 1 << 20


class SharedBlock:
    """Shared memory for one encoded video: its bytes, then int64 starts (with codec jpeg), then float32 times.

    The parent makes a block, passes its descriptor to the child, and reads with `take`.  The child opens it by the
    descriptor, and writes with `frames` and `put`.

    Args:
        fd: file descriptor of a block that another process made; None: make one.

    Attributes:
        fd: its file descriptor.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("frames") if fd is None else fd
        self._map: mmap.mmap | None = None

    def frames(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for raw frames of `shape`, to be filled and then given to `put`."""
        nbytes = math.prod(shape)
        self._grow(nbytes)
        return np.frombuffer(self._mapped(), np.uint8, nbytes).reshape(shape)

    def put(self, encoded: Encoded) -> dict[str, Any]:
        """Copy a video here if its bytes are not here yet; returns the arguments of `take` as JSON-able values."""
        data = encoded.data
        starts = np.empty(0, np.int64) if encoded.starts is None else encoded.starts
        starts_at, times_at, end = _places(data.nbytes, len(starts), encoded.num_frames)
        self._grow(end)
        memory = np.frombuffer(self._mapped(), np.uint8)
        if data.ctypes.data != memory.ctypes.data:
            memory[: data.nbytes] = data.reshape(-1)
        memory[starts_at:times_at] = starts.view(np.uint8)
        memory[times_at:end] = encoded.times_s.view(np.uint8)
        return {
            "nbytes": data.nbytes,
            "shape": data.shape,
            "num_starts": len(starts),
            "num_frames": encoded.num_frames,
            "crc32": encoded.crc32,
        }

    def take(self, nbytes: int, shape: list[int], num_starts: int, num_frames: int, crc32: int) -> Encoded:
        """The video that the other process put here; its arrays are views of this memory until `trim`."""
        memory = self._mapped()
        starts_at, times_at, _ = _places(nbytes, num_starts, num_frames)
        data = np.frombuffer(memory, np.uint8, nbytes)
        starts = np.frombuffer(memory, np.int64, num_starts, starts_at) if num_starts else None
        times_s = np.frombuffer(memory, np.float32, num_frames, times_at)
        return Encoded(data.reshape(shape), starts, num_frames, times_s, crc32)

    def trim(self) -> None:
        """Free the memory of a long video before the next one."""
        if os.fstat(self.fd).st_size > _KEPT_BYTES:
            self._map = None
            os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close the block; arrays that are views of it stay valid."""
        self._map = None
        os.close(self.fd)

    def _grow(self, nbytes: int) -> None:
        if os.fstat(self.fd).st_size < nbytes:
            os.ftruncate(self.fd, -(-nbytes // _GROWTH_BYTES) * _GROWTH_BYTES)

    def _mapped(self) -> mmap.mmap:
        size = os.fstat(self.fd).st_size  # either process may have changed it
        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self.fd, size)
        return self._map


def _places(nbytes: int, num_starts: int, num_frames: int) -> tuple[int, int, int]:
    """The byte offsets of starts and times behind `nbytes` of video, and of the end."""
    starts_at = -(-nbytes // 8) * 8
    times_at = starts_at + 8 * num_starts
    return starts_at, times_at, times_at + 4 * num_frames
