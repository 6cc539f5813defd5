"""Chooses the pixels of each sample, for training, evaluation and infer: clip, crop, and whether it is mirrored.

A view is one clip and one crop of a video; sample number = video * num_views + clip * num_crops + crop.  All that is
random in a view depends on (seed, epoch, sample) only.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.data.clip_sampling import clip_indices, num_draws, random_starts
from train.data.crops import places
from train.data.random_draws import Draws
from train.data.timeline import Timeline, num_resampled, resampled, stored_of
from train.experiment.sections import Loader

CLIP_POLICY = 2
"""The version of how clips are chosen, which checkpoints record.

1: `random` took windows of the stored frames.  2: it takes torchvision's windows of the source, resampled to
`preprocess.fps`.  A run that began with 1 is resumed with 1.
"""


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
        fps: `preprocess.fps`, the rate of stored frames.

    Attributes:
        crop: (H, W) of a view.
        num_views: views of a video in an epoch.
        clip_policy: version of how clips are chosen (CLIP_POLICY), set by a run that began under an earlier one.
    """

    def __init__(
        self, loader: Loader, stored: tuple[int, int], seed: int, fps: float | Literal["source"] = "source"
    ) -> None:
        self._options = loader.dataset
        self._stored = stored
        self._seed = seed
        self._fps = fps
        self.clip_policy = CLIP_POLICY
        self._transforms = loader.transforms(stored)
        self.crop = self._transforms.crop
        self.num_views = self._options.num_clips * self._options.num_crops
        # Two epochs are kept, because one may end while the next begins.
        self._draws = functools.lru_cache(maxsize=2)(self._draws_of_epoch)

    def num_samples(self, num_videos: int) -> int:
        """Views of all videos in an epoch."""
        return num_videos * self.num_views

    def video_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The video of each sample."""
        return samples // self.num_views

    def cuts(self, samples: NDArray[np.int64], timeline: Timeline, epoch: int = 0) -> Cuts:
        """The views of `samples`, (N,); `timeline` has the N frames of their videos."""
        options = self._options
        view = samples % self.num_views
        clip, crop = np.divmod(view, options.num_crops)
        of_frames, of_places = self._draws(epoch)
        owners = samples - crop  # all crops of a clip show the same frames
        together = options.seq_mode == "random"  # a video's clips are drawn together, so that they differ
        draws = of_frames.of(samples - view if together else owners)
        if together and self.clip_policy > 1:
            frames = self._random_windows(timeline.known(), draws, clip)
        else:
            frames = clip_indices(
                options.seq_mode,
                num_frames=timeline.stored_frames,
                clip_len=options.seq,
                interval=options.frame_interval,
                draws=draws,
                clip=clip,
                num_clips=options.num_clips,
            )
        where = places(self._transforms, self._stored, of_places.of(owners), crop, options.num_crops)
        return Cuts(frames, *where)

    def _random_windows(
        self, timeline: Timeline, draws: NDArray[np.float64], clip: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The stored frames (N, T) of random windows of the resampled source; a video without a window repeats."""
        options = self._options
        rate = timeline.source_fps if self._fps == "source" else self._fps
        available = np.maximum(num_resampled(timeline.source_frames, timeline.source_fps, rate), 1)
        windows = np.maximum(available - (options.seq - 1) * options.frame_interval, 1)
        start = random_starts(windows, draws, clip)
        positions = (start[:, None] + options.frame_interval * np.arange(options.seq)) % available[:, None]
        return stored_of(timeline, resampled(positions, timeline.source_fps, rate), self._fps)[0]

    def _draws_of_epoch(self, epoch: int) -> tuple[Draws, Draws]:
        """The random numbers of an epoch: for frames, and for crops and flips."""
        options = self._options
        each = num_draws(options.seq_mode, clip_len=options.seq, num_clips=options.num_clips)
        return Draws(self._seed, epoch, 0, each=each), Draws(self._seed, epoch, 1, each=3)


class PlannedViews:
    """Views that were chosen before, for evaluation: any number of each video, and the same in every epoch.

    Args:
        crop: (H, W) of a view.
        videos: (S,) the video of each view.
        cuts: the S views.
    """

    def __init__(self, crop: tuple[int, int], videos: NDArray[np.int64], cuts: Cuts) -> None:
        self.crop = crop
        self._videos = videos
        self._cuts = cuts

    def num_samples(self, num_videos: int) -> int:  # noqa: ARG002  as Views
        """Views of all videos."""
        return len(self._videos)

    def video_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The video of each sample."""
        return self._videos[samples]

    def cuts(self, samples: NDArray[np.int64], timeline: Timeline, epoch: int = 0) -> Cuts:  # noqa: ARG002  as Views
        """The views of `samples`, (N,)."""
        return Cuts._make(each[samples] for each in self._cuts)
