"""Predicts one video by the first of `eval.protocols`, with the views and the averages of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from train.data.timeline import Timeline
from train.evaluation.metrics import Scores, log_softmax
from train.evaluation.plan import Pass, Plan, check_protocols, make_plan
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
        inexact: whether a source frame that the protocol names is not stored, so that the nearest one is taken.
    """

    probabilities: NDArray[np.float64]
    spans: NDArray[np.int64]
    best: int
    repeats: bool
    inexact: bool


class VideoPredictor:
    """Predicts videos outside the shards as `make eval` does those in them.

    Args:
        predict: the network.
        config: the whole experiment, with a number in `model.num_classes`.

    Attributes:
        protocol: name of the protocol.

    Raises:
        UserError: the protocol needs other frames than the recipe gives.
    """

    def __init__(self, predict: Predict, config: Config) -> None:
        protocols = protocols_of(config.eval.protocols, config.data_loader.eval.dataset)
        self.protocol = next(iter(protocols))
        self._protocols = {self.protocol: protocols[self.protocol]}
        check_protocols(self._protocols, config)
        self._predict, self._config = predict, config
        chosen = protocols[self.protocol]
        # Always the same number of clips in a batch, for which one graph is compiled.
        self._batch = min(config.data_loader.eval.dataset.batch_size, chosen.num_clips * chosen.num_crops)

    def __call__(self, frames: NDArray[np.uint8], timeline: Timeline) -> VideoScores:
        """Predict one video.

        Args:
            frames: (frames, height, width, 3) uint8, as a shard would hold them.
            timeline: of this one video.

        Raises:
            TooShort: the video has no clip.
        """
        try:
            plan = make_plan(self._protocols, self._config, timeline, np.zeros(1, np.int64), "this file")
        except UserError:  # the protocol itself was checked before
            length = self._protocols[self.protocol].clip_len or self._config.data_loader.eval.dataset.seq
            raise TooShort(f"shorter than a clip of {self.protocol}, {length} frames") from None
        logits = [in_batches(self._predict, _clips_of(frames, each, timeline), self._batch) for each in plan.passes]
        probabilities = _mean_scores(plan, logits)
        cuts = np.concatenate([_spans_of(each, timeline) for each in plan.passes])
        spans, view_of = np.unique(cuts, axis=0, return_inverse=True)
        certainty = np.concatenate([log_softmax(each) for each in logits])[:, int(np.argmax(probabilities))]
        best = int(view_of.reshape(-1)[int(np.argmax(certainty))])
        return VideoScores(probabilities, spans, best, bool(plan.short[0].any()), bool(plan.inexact[0].any()))


def in_batches(predict: Predict, clips: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """The logits (N, K) of clips (N, T, H, W, 3), `size` at a time; the last batch is filled with copies."""
    filled = np.concatenate([clips, np.repeat(clips[-1:], -len(clips) % size, axis=0)])
    parts = [predict(Tensor(filled[at : at + size])).asnumpy() for at in range(0, len(filled), size)]
    return np.concatenate(parts)[: len(clips)]


def _mean_scores(plan: Plan, logits: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The scores (K,) of one video: of the protocol, or the mean over its seeds."""
    probabilities = []
    for each, values in zip(plan.passes, logits, strict=True):
        unlabelled, video = np.full(len(values), -1, np.int32), np.zeros(len(values), np.int64)
        for count, times in each.times.items():
            used = times > 0
            scores = Scores(1, values.shape[1], plan.counts[count].protocol.average)
            scores.add(values[used], unlabelled[used], video[used], times[used])
            probabilities.append(scores.probabilities()[0])
    return np.mean(probabilities, axis=0)


def _clips_of(frames: NDArray[np.uint8], planned: Pass, timeline: Timeline) -> NDArray[np.uint8]:
    """The views of one video, (num_views, T, H, W, 3) uint8."""
    num_views = planned.views.num_samples(1)
    height, width = planned.views.crop
    clips = np.empty((num_views, planned.loader.dataset.seq, height, width, 3), np.uint8)
    cuts = planned.views.cuts(np.arange(num_views), timeline)
    for clip, indices, top, left in zip(clips, cuts.frames, cuts.top, cuts.left, strict=True):
        clip[:] = frames[indices, top : top + height, left : left + width]
    return clips


def _spans_of(planned: Pass, timeline: Timeline) -> NDArray[np.int64]:
    """The first and the last stored frame of each view, (num_views, 2)."""
    frames = planned.views.cuts(np.arange(planned.views.num_samples(1)), timeline).frames
    return np.column_stack([frames.min(axis=1), frames.max(axis=1)])
