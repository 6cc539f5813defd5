"""Accuracy of clips and of videos, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, K) logits -> (N, K) log-probabilities, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def topk_correct(scores: NDArray, labels: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """(N,) whether the label is among the k best scores.

    A label beats strictly lower scores and, among equals, higher class ids, so that a network that says the same of
    every class is not credited with any.  Nothing beats NaN, and NaN is never among the best.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    classes = np.arange(scores.shape[1])[None, :]
    behind = (scores < own) | ((scores == own) & (classes > labels[:, None]))
    return (scores.shape[1] - 1 - behind.sum(axis=1) < k) & ~np.isnan(own[:, 0])


class Scores:
    """Collects the logits of views (clips) and scores them by clip and by video.

    A video's score is the mean of its views' softmax (torchvision's: the sum, which ranks the same).

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
        kept = labels[known]
        loss_sum = -float(log_probabilities[known, kept].sum())
        self._loss_sum += loss_sum
        self._clip_top1 += int(topk_correct(logits[known], kept, 1).sum())
        self._clip_top5 += int(topk_correct(logits[known], kept, 5).sum())
        self._labelled += len(kept)
        return loss_sum / len(kept)

    def probabilities(self) -> NDArray[np.float64]:
        """(num_videos, K) mean softmax of each video's views."""
        return self._sums / np.maximum(self.views, 1)[:, None]

    def of_clips(self) -> dict[str, float]:
        """`loss`, `clip_top1` and `clip_top5` of the labelled views up to now, without a walk over all videos."""
        if not self._labelled:
            return {}
        sums = {"loss": self._loss_sum, "clip_top1": self._clip_top1, "clip_top5": self._clip_top5}
        return {name: total / self._labelled for name, total in sums.items()}

    def summary(self) -> dict[str, float | int]:
        """Loss and accuracies in 0..1 with their denominators; accuracies only of labelled videos that were seen."""
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
