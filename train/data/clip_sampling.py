"""Chooses the frames of a clip: pure functions of (num_frames, policy, draws), for many clips at once.

Every policy gives T indices in 0..num_frames-1.  Drawn for a video of 12 frames and T = 4 (x: taken):

    part       ....xxxx....   T consecutive frames from a random start (zjut_mindvideo)
    interval   ..x.x.x.x...   every `interval`-th frame from a random start (zjut_mindvideo)
    random     ..xxxx......   as interval, but each clip of a video starts at another frame (torchvision in training;
                              train/data/views.py takes the windows of the resampled source, as torchvision does)
    uniform    x.x.x.x.....   clip j of `num_clips`, starts spread evenly over the stored frames
    discrete   .x..x...xx..   T different random frames, in order (zjut_mindvideo)
    average    .x..x..x..x.   one frame in each of T equal parts, all at the same random phase (zjut_mindvideo)

If a video is shorter than its clip, the first four policies repeat it in a loop (index k becomes k modulo num_frames;
torchvision leaves such videos out); discrete and average repeat single frames, so that time still runs forward.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def num_draws(mode: str, *, clip_len: int, num_clips: int) -> int:
    """How many random numbers `clip_indices` needs for one clip."""
    return {"uniform": 0, "random": num_clips, "discrete": clip_len}.get(mode, 1)


def clip_indices(
    mode: str,
    *,
    num_frames: NDArray[np.int64],
    clip_len: int,
    interval: int,
    draws: NDArray[np.float64],
    clip: NDArray[np.int64],
    num_clips: int = 1,
) -> NDArray[np.int64]:
    """The frames of N clips.

    Args:
        mode: part, interval, random, uniform, discrete or average.
        num_frames: (N,) frames of each clip's video, at least 1.
        clip_len: T, frames in a clip.
        interval: stored frames from one frame of the clip to the next, in modes interval, random and uniform.
        draws: (N, `num_draws`) in [0, 1), different for each clip; in mode random the same for all clips of a video.
        clip: (N,) number of each clip among its video's, in modes random and uniform.
        num_clips: clips of each video, in modes random and uniform.

    Returns:
        (N, T) int64, each in 0..num_frames-1.
    """
    if mode == "discrete":
        pairs = zip(num_frames.tolist(), draws.tolist(), strict=True)
        return np.sort([_different(draw, count) if count >= clip_len else _any(draw, count) for count, draw in pairs])
    count = num_frames[:, None]
    if mode == "average":
        return np.minimum((np.arange(clip_len) + draws) * count / clip_len, count - 1).astype(np.int64)
    stride = 1 if mode == "part" else interval
    last_start = np.maximum(num_frames - 1 - (clip_len - 1) * stride, 0)
    if mode == "uniform":  # the floor of an even spread over all windows
        spread = last_start / max(num_clips - 1, 1) * clip
        start = np.where((clip > 0) & (clip == num_clips - 1), last_start, spread).astype(np.int64)
    elif mode == "random":
        start = random_starts(last_start + 1, draws, clip)
    else:
        start = (draws[:, 0] * (last_start + 1)).astype(np.int64)
    frames = start[:, None] + stride * np.arange(clip_len)
    return np.where(frames < count, frames, frames % count)


def random_starts(windows: NDArray[np.int64], draws: NDArray[np.float64], clip: NDArray[np.int64]) -> NDArray[np.int64]:
    """A start (N,) for each clip, below `windows`, (N,), and different for the clips of a video.

    The starts of a video are the first of a permutation of all windows, as in torchvision's RandomClipSampler.

    Args:
        windows: at least 1.
        draws: (N, num_clips) in [0, 1), the same for all clips of a video.
        clip: (N,) number of each clip among its video's.
    """
    each = zip(draws.tolist(), (clip % windows).tolist(), windows.tolist(), strict=True)
    return np.array([_different(draw[: place + 1], count)[place] for draw, place, count in each], np.int64)


def as_ranges(frames: NDArray[np.int64]) -> list[range | list[int]]:
    """Clips, (N, T), each as a `range` if its frames rise by equal steps, otherwise as a list."""
    first = frames[:, 0]
    step = frames[:, 1] - first if frames.shape[1] > 1 else np.ones_like(first)
    even = (step > 0) & (np.diff(frames) == step[:, None]).all(axis=1)
    ends = zip(first.tolist(), (first + step * frames.shape[1]).tolist(), step.tolist(), strict=True)
    return [
        range(*each) if is_range else clip.tolist()
        for each, is_range, clip in zip(ends, even.tolist(), frames, strict=True)
    ]


def _different(draws: list[float], count: int) -> list[int]:
    """The start of a random permutation of 0..count-1, one number for each draw.

    This is the Fisher-Yates shuffle; only the numbers that moved are kept in memory.
    """
    moved: dict[int, int] = {}
    chosen = []
    for place, draw in enumerate(draws):
        other = place + int(draw * (count - place))
        chosen.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return chosen


def _any(draws: list[float], count: int) -> list[int]:
    """Random numbers in 0..count-1, which may repeat."""
    return [int(draw * count) for draw in draws]
