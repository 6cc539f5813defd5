"""What a decoded video is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.container import Source

MAX_STORED_BYTES = 1 << 30  # frames of one video are held in memory: 18 minutes at 15 frames/s of 128 x 171


@dataclass(frozen=True)
class DecodedVideo:
    """Stored frames of a video and what they came from.

    Attributes:
        frames: (T, height, width, 3) uint8 RGB, 0..255.
        times_s: (T,) float32, when each is shown, in seconds since the first.
        fps: stored frames per second.
        source: of the file; its size is that of upright pictures, its frames are those a player shows.
    """

    frames: NDArray[np.uint8]
    times_s: NDArray[np.float32]
    fps: float
    source: Source


Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]


def new_frames(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory for frames, uint8; what they hold at first is undefined."""
    return np.empty(shape, np.uint8)
