"""Memory of batches that is used again."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Arrays of one shape whose memory is used again as soon as nothing refers to it.

    Fresh memory would cost a page fault every 4 KiB: as much time as the copying.

    Args:
        shape: of each array, uint8.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[memoryview] = []  # its append and pop are atomic

    def take(self) -> NDArray[np.uint8]:
        """An array with undefined content; views of it keep its memory from being used again, too."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(int(np.prod(self._shape)), np.uint8).data  # numpy asks for huge pages
        flat = np.frombuffer(memory, np.uint8)  # the base of every view, however derived, as it is of no array itself
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)
