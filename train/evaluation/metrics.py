"""Computes loss and top-1 / top-5 accuracy of clips and of videos, for evaluation and the log of training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, K) logits -> (N, K) log-probabilities, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def topk_correct(scores: NDArray, labels: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """(N,) whether the label is among the k best scores.

    The label ranks before lower scores and, among equal scores, before higher class ids, so that equal scores for every
    class do not count as correct for every label.  A score of NaN ranks before all others, and a label with NaN is
    never correct.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    classes = np.arange(scores.shape[1])[None, :]
    lower = (scores < own) | ((scores == own) & (classes > labels[:, None]))
    return (scores.shape[1] - 1 - lower.sum(axis=1) < k) & ~np.isnan(own[:, 0])


class Scores:
    """Collects the logits of views (clips) and scores them by clip and by video.

    A video's score is the mean of its views' softmax (torchvision uses the sum, which ranks the same).

    Args:
        num_videos: videos in the split.
        num_classes: logits of the network.
    """

    def __init__(self, num_videos: int, num_classes: int) -> None:
        self.labels = np.full(num_videos, -1, np.int32)
        self.views = np.zeros(num_videos, np.int64)
        self._sums = np.zeros((num_videos, num_classes))
        self._loss_sum = 0.0
        self._clip_top1 = self._clip_top5 = self._labelled = 0

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.int32], videos: NDArray[np.int64]) -> float:
        """Add a batch of views: (N, K) logits, (N,) labels (-1: unlabelled), (N,) video numbers.

        Returns:
            The mean loss of its labelled views; NaN when it has none.
        """
        log_probabilities = log_softmax(logits)
        np.add.at(self._sums, videos, np.exp(log_probabilities))
        np.add.at(self.views, videos, 1)
        self.labels[videos] = labels
        known = labels >= 0
        if not known.any():
            return float("nan")
        labels = labels[known]
        loss_sum = -float(log_probabilities[known, labels].sum())
        self._loss_sum += loss_sum
        self._clip_top1 += int(topk_correct(logits[known], labels, 1).sum())
        self._clip_top5 += int(topk_correct(logits[known], labels, 5).sum())
        self._labelled += len(labels)
        return loss_sum / len(labels)

    def probabilities(self) -> NDArray[np.float64]:
        """(num_videos, K) mean softmax of each video's views."""
        return self._sums / np.maximum(self.views, 1)[:, None]

    def of_clips(self) -> dict[str, float]:
        """`loss`, `clip_top1` and `clip_top5` of the labelled views so far; fast, because no video is scored."""
        if not self._labelled:
            return {}
        sums = {"loss": self._loss_sum, "clip_top1": self._clip_top1, "clip_top5": self._clip_top5}
        return {name: total / self._labelled for name, total in sums.items()}

    def summary(self) -> dict[str, float | int]:
        """Loss and accuracies (0..1) of the labelled videos with views, and the counts behind them."""
        seen = (self.views > 0) & (self.labels >= 0)
        result: dict[str, float | int] = {
            "num_videos": int((self.views > 0).sum()),
            "num_labelled_videos": int(seen.sum()),
            "num_clips": int(self.views.sum()),
            **self.of_clips(),
        }
        if self._labelled:
            probabilities = self.probabilities()[seen]
            result["video_top1"] = float(topk_correct(probabilities, self.labels[seen], 1).mean())
            result["video_top5"] = float(topk_correct(probabilities, self.labels[seen], 5).mean())
        return result
