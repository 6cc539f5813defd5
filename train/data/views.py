"""Chooses the pixels of each sample, for training, evaluation and infer: clip, crop, and whether it is mirrored.

A view is one clip and one crop of a video; sample number = video * num_views + clip * num_crops + crop.  All that is
random in a view depends on (seed, epoch, sample) only.
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
    """The positions of N views in their videos' stored frames.

    Attributes:
        frames: (N, T) int64, indices of stored frames.
        top: (N,) int64, first row of pixels.
        left: (N,) int64, first column of pixels.
        flip: (N,) bool, mirrored left and right.
    """

    frames: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]


class Views:
    """The views that a loader takes of every video.

    Args:
        loader: the `data_loader.train` or `data_loader.eval` section.
        stored: (H, W) of the stored frames.
        seed: of random clips, crops and flips.

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
        # Two epochs are kept, because one may end while the next begins.
        self._draws = functools.lru_cache(maxsize=2)(self._draws_of_epoch)

    def cuts(self, samples: NDArray[np.int64], num_frames: NDArray[np.int64], epoch: int = 0) -> Cuts:
        """The views of `samples`, (N,), whose videos have `num_frames`, (N,), frames."""
        options = self._options
        view = samples % self.num_views
        clip, crop = np.divmod(view, options.num_crops)
        of_frames, of_places = self._draws(epoch)
        owners = samples - crop  # all crops of a clip show the same frames
        together = options.seq_mode == "random"  # a video's clips are drawn together, so that they differ
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
        """The random numbers of an epoch: for frames, and for crops and flips."""
        options = self._options
        each = num_draws(options.seq_mode, clip_len=options.seq, num_clips=options.num_clips)
        return Draws(self._seed, epoch, 0, each=each), Draws(self._seed, epoch, 1, each=3)


def views_of(frames: NDArray[np.uint8], config: Config) -> NDArray[np.uint8]:
    """The views that evaluation takes of a video: (frames, height, width, 3) -> (num_views, T, H, W, 3), uint8."""
    loader = config.data_loader.eval
    views = Views(loader, (frames.shape[1], frames.shape[2]), config.train.seed)
    height, width = views.crop
    clips = np.empty((views.num_views, loader.dataset.seq, height, width, 3), np.uint8)
    cuts = views.cuts(np.arange(views.num_views), np.full(views.num_views, len(frames)))
    for clip, indices, top, left in zip(clips, cuts.frames, cuts.top, cuts.left, strict=True):
        clip[:] = frames[indices, top : top + height, left : left + width]
    return clips
