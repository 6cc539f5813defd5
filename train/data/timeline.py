"""Resamples the frames of a source video as torchvision does, and finds those frames among the stored ones.

Source frames are those of the video file, stored frames those that `make preprocess` chose of them.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Timeline(NamedTuple):
    """The frames of N videos.

    Attributes:
        source_frames: (N,) int64, frames of the file; 0: unknown.
        source_fps: (N,) float64, their rate; 0: unknown.
        stored_frames: (N,) int64, frames in the shard.
        stored_fps: (N,) float64, their rate; 0: unknown.
        by_time: (N,) bool, whether the source's rate varies, so that stored frames were chosen by time.
    """

    source_frames: NDArray[np.int64]
    source_fps: NDArray[np.float64]
    stored_frames: NDArray[np.int64]
    stored_fps: NDArray[np.float64]
    by_time: NDArray[np.bool_]

    def of(self, videos: NDArray[np.int64]) -> Timeline:
        """The frames of some of these videos, by number, in that order."""
        return Timeline._make(each[videos] for each in self)

    def known(self) -> Timeline:
        """The same; where the source is unknown, the stored frames count as the source's."""
        unknown = (self.source_frames <= 0) | (self.source_fps <= 0)
        rate = np.where(self.stored_fps > 0, self.stored_fps, 1.0)
        frames = np.where(unknown, self.stored_frames, self.source_frames)
        return self._replace(source_frames=frames, source_fps=np.where(unknown, rate, self.source_fps))


Rate = float | NDArray[np.float64]
"""Frames per second: one of all videos, or (N,)."""


def num_resampled(num_frames: NDArray[np.int64], source_fps: NDArray[np.float64], fps: Rate) -> NDArray[np.int64]:
    """How many frames (N,) torchvision's VideoClips makes of `num_frames` at `source_fps` when it resamples to `fps`.

    If the step from one frame to the next is a whole number, it slices, and otherwise takes floor(num_frames * fps /
    source_fps) frames, multiplied before it divides: 91 frames at 27.3 are 50 and not 49.
    """
    step = source_fps / fps
    sliced = -(-num_frames // np.maximum(step.astype(np.int64), 1))
    return np.where(step % 1 == 0, sliced, np.floor(num_frames * fps / source_fps).astype(np.int64))


def resampled(positions: NDArray[np.int64], source_fps: NDArray[np.float64], fps: Rate) -> NDArray[np.int64]:
    """The source frame of each resampled frame, floor(k * source_fps / fps) in float32 as in torchvision.

    Args:
        positions: (N, ...) numbers of resampled frames.
        source_fps: (N,) rates of their videos.
        fps: the rate of resampled frames.
    """
    step = (source_fps / fps).reshape(-1, *[1] * (positions.ndim - 1))
    floors = np.floor(positions.astype(np.float32) * step.astype(np.float32)).astype(np.int64)
    return np.where(step % 1 == 0, positions * step.astype(np.int64), floors)


def stored_of(
    timeline: Timeline, source: NDArray[np.int64], fps: float | Literal["source"]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The stored frames that show source frames, or are nearest to them.

    Stored frame k is source frame floor(k * source_fps / fps), as pipeline/decoding/resample.py chose it.  The frames
    of a video that is `by_time`, or has another number of stored frames than this rule gives, are found by time.  If
    every source frame is stored, time does not matter.

    Args:
        timeline: of N videos, `known()`.
        source: (N, ...) numbers of source frames.
        fps: `preprocess.fps`, the rate of stored frames.

    Returns:
        (N, ...) numbers of stored frames, and (N,) whether each of a video's frames is the source frame itself.
    """
    shape = (-1, *[1] * (source.ndim - 1))
    rates, inverse = np.unique(timeline.source_fps, return_inverse=True)
    steps = [_step(rate, fps) for rate in rates.tolist()]
    above, below = (
        np.array([getattr(step, part) for step in steps], np.int64)[inverse] for part in ("numerator", "denominator")
    )
    by_rule = -(-timeline.source_frames * below // above) == timeline.stored_frames
    by_rule &= ~timeline.by_time | (above == below)
    above, below = above.reshape(shape), below.reshape(shape)
    after = -(-source * below // above)
    before = np.maximum(after - 1, 0)
    nearer = after * above // below - source < source - before * above // below
    steady = np.where(nearer, after, before)
    time_s = source / timeline.source_fps.reshape(shape)
    timed = np.rint(time_s * timeline.stored_fps.reshape(shape)).astype(np.int64)
    stored = np.where(by_rule.reshape(shape), steady, timed)
    stored = np.clip(stored, 0, timeline.stored_frames.reshape(shape) - 1)
    shown = stored * above // below == source
    return stored, by_rule & shown.reshape(len(shown), -1).all(axis=1)


@functools.lru_cache(maxsize=4096)
def _step(source_fps: float, fps: float | Literal["source"]) -> Fraction:
    """Source frames per stored frame, as pipeline/decoding/resample.py has them: rates are a container's fractions."""
    if fps == "source" or source_fps <= fps:
        return Fraction(1)
    return Fraction(source_fps).limit_denominator(1_000_000) / Fraction(fps).limit_denominator(1_000_000)
