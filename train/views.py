"""Which pixels a sample is: the frames of its clip, its crop, and whether it is mirrored.

A view is one clip and one crop of a video; sample number = video * num_views + clip * num_crops + crop.  What is
random in it is a function of (seed, epoch, sample) alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.augment import HostTransform
from train.clip_sampling import clip_indices
from train.config import Loader


class Cut(NamedTuple):
    """Where a view is in its video's stored frames.

    Attributes:
        frames: (T,) int64, indices of frames.
        top: first row of pixels.
        left: first column of pixels.
        flip: mirrored left and right.
    """

    frames: NDArray[np.int64]
    top: int
    left: int
    flip: bool


class Views:
    """The views a loader takes of every video.

    Args:
        loader: the `data_loader.train` or `data_loader.eval` section.
        stored: (H, W) of the stored frames.
        seed: of what is random.

    Attributes:
        crop: (H, W) of a view.
        num_views: views of a video in an epoch.
    """

    def __init__(self, loader: Loader, stored: tuple[int, int], seed: int) -> None:
        self._options = loader.dataset
        self._stored = stored
        self._seed = seed
        self._transform = HostTransform.of(loader.map, stored)
        self.crop = self._transform.crop
        self.num_views = self._options.num_clips * self._options.num_crops

    def cut(self, sample: int, num_frames: int, epoch: int = 0) -> Cut:
        """The view that is sample number `sample`, of a video of `num_frames` frames."""
        options = self._options
        view = sample % self.num_views
        clip, crop = divmod(view, options.num_crops)
        rng = np.random.default_rng([self._seed, epoch, sample - crop])  # the crops of a clip are of the same frames
        together = options.seq_mode == "random"  # a video's clips are drawn at once, so that they differ
        frames = clip_indices(
            options.seq_mode,
            num_frames=num_frames,
            clip_len=options.seq,
            interval=options.frame_interval,
            rng=np.random.default_rng([self._seed, epoch, sample - view, 1]) if together else rng,
            clip=clip,
            num_clips=options.num_clips,
        )
        return Cut(frames, *self._transform.draw(self._stored, rng, crop, options.num_crops))
