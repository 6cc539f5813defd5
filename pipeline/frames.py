"""What a decoded video is, and which of its frames are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.container import Source

MAX_STORED_BYTES = 1 << 30  # frames of one video are held in memory: 18 minutes at 15 frames/s of 128 x 171


@dataclass(frozen=True)
class Video:
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


def resampling(source_fps: float | Fraction, fps: float | str) -> tuple[Fraction, float]:
    """Source frames per stored frame, and stored frames per second.

    A source no faster than `fps`, or any with `fps` source, is kept whole at its own rate.  Rates are fractions:
    in floating point floor(75 * (22 / 15)) is 109, and not 110.
    """
    if fps == "source" or source_fps <= float(fps):
        return Fraction(1), float(source_fps)
    return _fraction(source_fps) / _fraction(float(fps)), float(fps)


def _fraction(rate: float | Fraction) -> Fraction:
    """The fraction that a container holds and a float came from: 29.97002997... is 30000/1001."""
    return Fraction(rate).limit_denominator(1_000_000)


def kept_frames(num_frames: int, source_fps: float | Fraction, fps: float | str) -> tuple[NDArray[np.int64], float]:
    """Which of `num_frames` source frames are stored, and at what rate.

    Stored frame k is source frame floor(k * source_fps / fps), torchvision's resampling.
    """
    step, stored_fps = resampling(source_fps, fps)
    count = -(-num_frames * step.denominator // step.numerator)  # the k whose floor is a frame
    return np.array([k * step.numerator // step.denominator for k in range(count)], np.int64), stored_fps


def steady_times(indices: NDArray[np.int64], source_fps: float) -> NDArray[np.float32]:
    """Seconds from the first source frame to those of `indices`, if all are shown equally long; zeros at rate 0."""
    return (indices / source_fps if source_fps else np.zeros(len(indices))).astype(np.float32)


def since_first(times_s: NDArray[np.floating], indices: NDArray[np.int64], source_fps: float) -> NDArray[np.float32]:
    """Times of the source frames `indices`, made to begin with 0.

    Times that do not all rise are not when frames are shown (some AVI and damaged files): the mean rate stands in.
    """
    if not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
        return steady_times(indices, source_fps)
    return (times_s - times_s[:1]).astype(np.float32)
