"""The result of decoding one video, as the decoders return it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.container import Source

MAX_STORED_BYTES = 1 << 30  # a video's frames are all in memory: 18 minutes at 15 frames/s of 128 x 171


@dataclass(frozen=True)
class DecodedVideo:
    """The frames to store of a video, and its source.

    Attributes:
        frames: (T, height, width, 3) uint8 RGB, 0..255.
        times_s: (T,) float32, the time at which each is shown, in seconds since the first.
        fps: stored frames per second.
        decoder: empty if decord gave the frames, otherwise the name of the decoder.
        chosen_by: `time` if the rate varies, otherwise empty: the stored frames are chosen by their number.
        source: the file; width and height are of upright pictures, and its frames are those that a player shows.
    """

    frames: NDArray[np.uint8]
    times_s: NDArray[np.float32]
    fps: float
    source: Source
    decoder: str = ""
    chosen_by: str = ""


Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]


def new_frames(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory for frames, uint8, not initialised."""
    return np.empty(shape, np.uint8)
