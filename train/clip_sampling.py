"""Which frames of a video make a clip: pure functions of (num_frames, policy, rng).

Every policy gives T indices in 0..num_frames-1.  Drawn for a video of 12 frames and T = 4 (x: taken):

    part       ....xxxx....   T consecutive frames from a random start (the seed's)
    interval   ..x.x.x.x...   every `interval`-th frame from a random start (the seed's)
    random     ..xxxx......   as interval, but the clips of a video all start elsewhere (torchvision's in training)
    uniform    x.x.x.x.....   clip j of `num_clips`, their starts spread evenly (torchvision's in evaluation)
    discrete   .x..x...xx..   T different frames at random, in order (the seed's)
    average    .x..x..x..x.   one frame in each of T equal parts of the video, all at the same random phase (the seed's)

Of a video too short for its clip the first four play in a loop (index k becomes k modulo num_frames; torchvision
leaves such videos out); discrete and average repeat frames in place, so that time still runs forward.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clip_indices(
    mode: str,
    *,
    num_frames: int,
    clip_len: int,
    interval: int,
    rng: np.random.Generator,
    clip: int = 0,
    num_clips: int = 1,
) -> NDArray[np.int64]:
    """The frames of one clip.

    Args:
        mode: part, interval, random, uniform, discrete or average.
        num_frames: frames the video has, at least 1.
        clip_len: T, frames in the clip.
        interval: stored frames from one frame of the clip to the next, in modes interval, random and uniform.
        rng: the sample's own generator; in mode random the video's, fresh for each of its clips.
        clip: which of the video's clips this is, in modes random and uniform.
        num_clips: clips the video is cut into, in mode uniform.

    Returns:
        (T,) int64, each in 0..num_frames-1.
    """
    if mode == "discrete":
        return np.sort(rng.choice(num_frames, size=clip_len, replace=num_frames < clip_len)).astype(np.int64)
    if mode == "average":
        steps = np.arange(clip_len)
        return np.minimum((steps + rng.random()) * num_frames / clip_len, num_frames - 1).astype(np.int64)
    stride = 1 if mode == "part" else interval
    last_start = max(num_frames - 1 - (clip_len - 1) * stride, 0)
    if mode == "uniform":  # torchvision's UniformClipSampler: floor of an even spread over all windows
        start = int(np.linspace(0, last_start, num_clips)[clip])
    elif mode == "random":  # torchvision's RandomClipSampler: the first of a permutation of all windows
        start = int(rng.permutation(last_start + 1)[clip % (last_start + 1)])
    else:
        start = int(rng.integers(last_start + 1))
    frames = np.arange(start, start + clip_len * stride, stride, dtype=np.int64)
    return frames if frames[-1] < num_frames else frames % num_frames
