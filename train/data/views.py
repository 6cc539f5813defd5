"""Which pixels a sample is: the frames of its clip, its crop, and whether it is mirrored.

A view is one clip and one crop of a video; sample number = video * num_views + clip * num_crops + crop.  What is
random in it is a function of (seed, epoch, sample) alone.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.data.clip_sampling import clip_indices, num_draws
from train.data.crops import places
from train.data.random_draws import Draws
from train.experiment.sections import Config, Loader


class Cuts(NamedTuple):
    """Where N views are in their videos' stored frames.

    Attributes:
        frames: (N, T) int64, indices of frames.
        top: (N,) int64, first row of pixels.
        left: (N,) int64, first column of pixels.
        flip: (N,) bool, mirrored left and right.
    """

    frames: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]


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
        self._transforms = loader.transforms(stored)
        self.crop = self._transforms.crop
        self.num_views = self._options.num_clips * self._options.num_crops
        # Of one epoch, or of two while one ends and the next begins.
        self._draws = functools.lru_cache(maxsize=2)(self._draws_of_epoch)

    def cuts(self, samples: NDArray[np.int64], num_frames: NDArray[np.int64], epoch: int = 0) -> Cuts:
        """The views that are `samples`, (N,), of videos that have `num_frames`, (N,), frames."""
        options = self._options
        view = samples % self.num_views
        clip, crop = np.divmod(view, options.num_crops)
        of_frames, of_places = self._draws(epoch)
        owners = samples - crop  # the crops of a clip are of the same frames
        together = options.seq_mode == "random"  # a video's clips are drawn at once, so that they differ
        frames = clip_indices(
            options.seq_mode,
            num_frames=num_frames,
            clip_len=options.seq,
            interval=options.frame_interval,
            draws=of_frames.of(samples - view if together else owners),
            clip=clip,
            num_clips=options.num_clips,
        )
        where = places(self._transforms, self._stored, of_places.of(owners), crop, options.num_crops)
        return Cuts(frames, *where)

    def _draws_of_epoch(self, epoch: int) -> tuple[Draws, Draws]:
        """Of frames, and of crops and flips."""
        options = self._options
        each = num_draws(options.seq_mode, clip_len=options.seq, num_clips=options.num_clips)
        return Draws(self._seed, epoch, 0, each=each), Draws(self._seed, epoch, 1, each=3)


def views_of(frames: NDArray[np.uint8], config: Config) -> NDArray[np.uint8]:
    """The views evaluation would take of a video: (num_views, T, H, W, 3) uint8 out of (frames, height, width, 3)."""
    loader = config.data_loader.eval
    chosen = Views(loader, (frames.shape[1], frames.shape[2]), config.train.seed)
    height, width = chosen.crop
    clips = np.empty((chosen.num_views, loader.dataset.seq, height, width, 3), np.uint8)
    cuts = chosen.cuts(np.arange(chosen.num_views), np.full(chosen.num_views, len(frames)))
    for clip, indices, top, left in zip(clips, cuts.frames, cuts.top, cuts.left, strict=True):
        clip[:] = frames[indices, top : top + height, left : left + width]
    return clips
