"""Chooses the frames of a video to store, and the time at which each is shown."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def resampling(source_fps: float | Fraction, fps: float | str) -> tuple[Fraction, float]:
    """Source frames per stored frame, and stored frames per second.

    If the source is no faster than `fps`, or `fps` is `source`, all frames are kept at the source's rate.  Rates are
    fractions, because in floating point floor(75 * (22 / 15)) is 109 and not 110.
    """
    if fps == "source" or source_fps <= float(fps):
        return Fraction(1), float(source_fps)
    return _fraction(source_fps) / _fraction(float(fps)), float(fps)


def _fraction(rate: float | Fraction) -> Fraction:
    """The fraction in the container from which a float was made: 29.97002997... is 30000/1001."""
    return Fraction(rate).limit_denominator(1_000_000)


def kept_frames(num_frames: int, source_fps: float | Fraction, fps: float | str) -> tuple[NDArray[np.int64], float]:
    """The indices of the stored frames among `num_frames` source frames, and their rate.

    Stored frame k is source frame floor(k * source_fps / fps), torchvision's resampling.
    """
    step, stored_fps = resampling(source_fps, fps)
    count = -(-num_frames * step.denominator // step.numerator)  # the k whose floor is a frame
    return np.array([k * step.numerator // step.denominator for k in range(count)], np.int64), stored_fps


def kept_by_time(
    ticks: NDArray[np.int64], tick_s: Fraction, source_fps: float, fps: float | str
) -> tuple[NDArray[np.int64], float]:
    """The indices of the stored frames of a video whose rate varies, and their rate.

    Stored frame k is the source frame that is shown k / fps seconds after the first; a frame that is shown for long is
    stored more than once.  If the mean rate is not above `fps`, all frames are kept.

    Args:
        ticks: (n,) times of the source frames, rising from 0, in units of `tick_s`.
        tick_s: seconds.
        source_fps: mean rate of the source.
        fps: of the recipe.
    """
    step, stored_fps = resampling(source_fps, fps)
    if step == 1:
        return np.arange(len(ticks)), stored_fps
    every = ticks_between(tick_s, stored_fps)
    wanted = [k * every.numerator // every.denominator for k in range(int(int(ticks[-1]) / every) + 1)]
    return np.searchsorted(ticks, np.array(wanted, np.int64), "right") - 1, stored_fps


def ticks_between(tick_s: Fraction, stored_fps: float) -> Fraction:
    """Ticks from one stored frame to the next."""
    return 1 / (_fraction(stored_fps) * tick_s)


def seconds(ticks: NDArray, tick_s: Fraction) -> NDArray[np.float64]:
    """Times in seconds, as FFmpeg computes them."""
    return ticks * tick_s.numerator / tick_s.denominator


def steady_times(indices: NDArray[np.int64], source_fps: float) -> NDArray[np.float32]:
    """Seconds from the first source frame to those of `indices` at a constant rate; zeros at rate 0."""
    return (indices / source_fps if source_fps else np.zeros(len(indices))).astype(np.float32)


def since_first(times_s: NDArray[np.floating], indices: NDArray[np.int64], source_fps: float) -> NDArray[np.float32]:
    """Times of the source frames `indices`, shifted to begin with 0.

    Times that do not all increase are wrong (some AVI and damaged files): then the mean rate is used.
    """
    if not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
        return steady_times(indices, source_fps)
    return (times_s - times_s[:1]).astype(np.float32)
