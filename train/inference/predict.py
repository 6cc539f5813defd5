"""Predicts videos by the first of `eval.protocols`, with the views and the averages of evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from train.data.timeline import Timeline
from train.evaluation.metrics import Scores, log_softmax
from train.evaluation.plan import Plan, check_protocols, make_plan
from train.evaluation.protocols import protocols_of
from train.experiment.sections import Config

Predict = Callable[[Tensor], Tensor]
"""uint8 clips (N, T, H, W, 3) -> logits (N, K)."""


class TooShort(UserError):
    """A video has no clip by the protocol."""


@dataclass(frozen=True)
class VideoScores:
    """What the network says of one video.

    Attributes:
        probabilities: (K,) float64.
        spans: (V, 2) int64, the first and the last stored frame of each view, crops of one clip once, in order.
        best: number in `spans` of the view that is surest of the predicted class.
        repeats: whether the video is shorter than a clip, so that its frames repeat.
    """

    probabilities: NDArray[np.float64]
    spans: NDArray[np.int64]
    best: int
    repeats: bool


@dataclass(frozen=True)
class VideoViews:
    """What the network is to see of one video.

    Attributes:
        plan: which views count how often.
        clips: (V, T, H, W, 3) uint8, the views.
        spans: (V, 2) int64, the first and the last stored frame of each.
    """

    plan: Plan
    clips: NDArray[np.uint8]
    spans: NDArray[np.int64]


class VideoPredictor:
    """Predicts videos outside the shards as `make eval` does those in them.

    Args:
        predict: the network.
        config: the whole experiment, with a number in `model.num_classes`.
        num_videos: that will be predicted; more can share a batch.

    Attributes:
        protocol: name of the protocol.
        batch_size: clips in a call of the network, for which one graph is compiled.
        videos_per_batch: how many videos give so many clips, at least 1.

    Raises:
        UserError: the protocol needs other frames than the recipe gives.
    """

    def __init__(self, predict: Predict, config: Config, num_videos: int = 1) -> None:
        protocols = protocols_of(config.eval.protocols, config.data_loader.eval.dataset)
        self.protocol, chosen = next(iter(protocols.items()))
        self._protocols = {self.protocol: chosen}
        check_protocols(self._protocols, config)
        self._predict, self._config = predict, config
        views = chosen.num_clips * chosen.num_crops
        self.batch_size = batch_size_of(views, config.data_loader.eval.dataset.batch_size, num_videos)
        self.videos_per_batch = max(self.batch_size // views, 1)

    def views(self, frames: NDArray[np.uint8], timeline: Timeline) -> VideoViews:
        """Cut the views out of one video.

        Args:
            frames: (frames, height, width, 3) uint8, as a shard would hold them; the views are copies.
            timeline: of this one video.

        Raises:
            TooShort: the video has no clip.
        """
        plan = make_plan(self._protocols, self._config, timeline, np.zeros(1, np.int64))
        (views,) = (each.views for each in plan.passes)  # one protocol has clips of one length
        if not views.num_samples(1):
            length = self._protocols[self.protocol].clip_len or self._config.data_loader.eval.dataset.seq
            raise TooShort(f"shorter than a clip of {self.protocol}, {length} frames")
        cuts = views.cuts(np.arange(views.num_samples(1)), timeline)
        height, width = views.crop
        clips = np.stack([
            frames[indices, top : top + height, left : left + width]
            for indices, top, left in zip(cuts.frames, cuts.top, cuts.left, strict=True)
        ])  # fmt: skip
        spans = np.column_stack([cuts.frames.min(axis=1), cuts.frames.max(axis=1)])
        return VideoViews(plan, clips, spans)

    def scores(self, videos: Sequence[VideoViews]) -> list[VideoScores]:
        """Run the views of some videos through the network, in shared batches."""
        logits = in_batches(self._predict, np.concatenate([each.clips for each in videos]), self.batch_size)
        ends = np.cumsum([len(each.clips) for each in videos])[:-1]
        return [_scores_of(each, part) for each, part in zip(videos, np.split(logits, ends), strict=True)]


def batch_size_of(num_views: int, most: int, num_videos: int) -> int:
    """How many clips share a call of the network, so that few calls have to be filled with copies.

    Args:
        num_views: clips of one video.
        most: clips in a call at most.
        num_videos: how many videos there are.
    """
    if num_views > most:
        return math.ceil(num_views / math.ceil(num_views / most))
    return num_views * min(most // num_views, num_videos)


def in_batches(predict: Predict, clips: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """The logits (N, K) of clips (N, T, H, W, 3), `size` at a time; the last batch is filled with copies."""
    filled = np.concatenate([clips, np.repeat(clips[-1:], -len(clips) % size, axis=0)])
    parts = [predict(Tensor(filled[at : at + size])).asnumpy() for at in range(0, len(filled), size)]
    return np.concatenate(parts)[: len(clips)]


def _scores_of(views: VideoViews, logits: NDArray[np.float32]) -> VideoScores:
    """The scores of one video from the logits (V, K) of its views."""
    plan = views.plan
    probabilities = _mean_scores(plan, logits)
    spans, view_of = np.unique(views.spans, axis=0, return_inverse=True)
    certainty = log_softmax(logits)[:, int(np.argmax(probabilities))]
    best = int(view_of.reshape(-1)[int(np.argmax(certainty))])
    return VideoScores(probabilities, spans, best, bool(plan.short[0].any()))


def _mean_scores(plan: Plan, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The scores (K,) of one video: of the protocol, or the mean over its seeds."""
    unlabelled, video = np.full(len(logits), -1, np.int32), np.zeros(len(logits), np.int64)
    probabilities = []
    for count, times in plan.passes[0].times.items():
        used = times > 0
        scores = Scores(1, logits.shape[1], plan.counts[count].protocol.average)
        scores.add(logits[used], unlabelled[used], video[used], times[used])
        probabilities.append(scores.probabilities()[0])
    return np.mean(probabilities, axis=0)
