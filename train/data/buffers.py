"""Reuses the memory of batches, for the loader."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Arrays of one shape whose memory is reused as soon as nothing refers to it.

    New memory costs a page fault every 4 KiB, which takes as long as copying the clips.

    Args:
        shape: of each array; the arrays are uint8.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[memoryview] = []  # append and pop are atomic

    def take(self) -> NDArray[np.uint8]:
        """An array with undefined content; its memory is not reused while the array or a view of it exists."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(int(np.prod(self._shape)), np.uint8).data  # numpy requests huge pages
        flat = np.frombuffer(memory, np.uint8)  # the base of every view, also of views of views
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)
