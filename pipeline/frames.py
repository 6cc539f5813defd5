"""What a decoded video is, and which of its frames are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_STORED_BYTES = 1 << 30  # frames of one video are held in memory: 18 minutes at 15 frames/s of 128 x 171


@dataclass(frozen=True)
class Video:
    """Stored frames of a video and what they came from.

    Attributes:
        frames: (T, height, width, 3) uint8 RGB, 0..255.
        fps: stored frames per second.
        codec: of the source stream, FFmpeg's name.
        source_width: in pixels, upright.
        source_height: in pixels, upright.
        source_fps: mean frames per second.
        source_frames: frames a player shows.
        source_bytes: size of the file.
    """

    frames: NDArray[np.uint8]
    fps: float
    codec: str
    source_width: int
    source_height: int
    source_fps: float
    source_frames: int
    source_bytes: int


def resampling(source_fps: float, fps: float | str) -> tuple[float, float]:
    """Source frames per stored frame, and stored frames per second.

    A source no faster than `fps`, or any with `fps` source, is kept whole at its own rate.
    """
    if fps == "source" or source_fps <= float(fps):
        return 1.0, source_fps
    return source_fps / float(fps), float(fps)


def kept_frames(num_frames: int, source_fps: float, fps: float | str) -> tuple[NDArray[np.int64], float]:
    """Which of `num_frames` source frames are stored, and at what rate.

    Stored frame k is source frame floor(k * source_fps / fps), torchvision's resampling.
    """
    step, stored_fps = resampling(source_fps, fps)
    indices = np.floor(np.arange(int(np.ceil(num_frames / step)) + 1) * step).astype(np.int64)
    return indices[indices < num_frames], stored_fps
