"""Computes loss and top-1 / top-5 accuracy of clips and of videos, for evaluation and the log of training."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # the normal distribution has 95 % of its values between -_Z and _Z


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, K) logits -> (N, K) log-probabilities, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def mean_loss(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """The mean cross-entropy of the labelled of N logits (N, K); NaN when none is labelled."""
    known = labels >= 0
    return float(-log_softmax(logits[known])[np.arange(known.sum()), labels[known]].mean()) if known.any() else np.nan


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


def wilson(hits: float, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion (Wilson 1927, without correction for continuity), 0..1.

    Args:
        hits: how many were right; may be a mean over seeds.
        total: of how many, at least 1.
    """
    share, spread = hits / total, _Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * np.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


class Scores:
    """Collects the logits of views (clips) and scores them by clip and by video.

    All sums are kept for each video, and added in the order in which its views come, so that they do not depend on
    batches or on the number of processes.

    Args:
        num_videos: videos in the split.
        num_classes: logits of the network.
        average: a video's score is the mean of its views' softmax (torchvision uses the sum, which ranks the same), or
            the softmax of their mean logits.
        labels: (num_videos,) of all videos, -1: unlabelled; None: known from `add`.

    Attributes:
        labels: (num_videos,) int32.
        views: (num_videos,) int64, how many views were added.
        inexact: (num_videos,) bool, whose stored frames lack one that the protocol names.
        short: (num_videos,) bool, those shorter than a clip.
    """

    def __init__(
        self,
        num_videos: int,
        num_classes: int,
        average: Literal["softmax", "logits"] = "softmax",
        labels: NDArray[np.int32] | None = None,
    ) -> None:
        self.labels = np.full(num_videos, -1, np.int32) if labels is None else labels.copy()
        self.views = np.zeros(num_videos, np.int64)
        self.inexact, self.short = np.zeros((2, num_videos), bool)
        self._average = average
        self._sums = np.zeros((num_videos, num_classes))
        self._loss, self._top1, self._top5 = np.zeros((3, num_videos))

    def add(
        self,
        logits: NDArray[np.float32],
        labels: NDArray[np.int32],
        videos: NDArray[np.int64],
        times: NDArray[np.int64] | None = None,
    ) -> float:
        """Add a batch of views.

        Args:
            logits: (N, K).
            labels: (N,), -1: unlabelled.
            videos: (N,) video numbers.
            times: (N,) how often each view counts; None: once.

        Returns:
            The mean loss of its labelled views; NaN when it has none.
        """
        times = np.ones(len(videos), np.int64) if times is None else times
        log_probabilities = log_softmax(logits)
        scores = np.exp(log_probabilities) if self._average == "softmax" else logits.astype(np.float64)
        np.add.at(self._sums, videos, scores * times[:, None])
        np.add.at(self.views, videos, times)
        self.labels[videos] = labels
        known = labels >= 0
        if not known.any():
            return float("nan")
        logits, labels, videos, times = logits[known], labels[known], videos[known], times[known]
        losses = -log_probabilities[known, labels] * times
        np.add.at(self._loss, videos, losses)
        np.add.at(self._top1, videos, topk_correct(logits, labels, 1) * times)
        np.add.at(self._top5, videos, topk_correct(logits, labels, 5) * times)
        return float(losses.sum() / times.sum())

    def sums(self) -> list[NDArray]:
        """All sums, each with a row for each video: zeros where nothing was added.  They may be replaced in place."""
        return [self.views, self.inexact, self.short, self._sums, self._loss, self._top1, self._top5]

    def probabilities(self) -> NDArray[np.float64]:
        """(num_videos, K) score of each video, which sums to 1; zeros where it has no view."""
        means = self._sums / np.maximum(self.views, 1)[:, None]
        if self._average == "softmax":
            return means
        return np.exp(log_softmax(means)) * (self.views > 0)[:, None]

    def losses(self) -> NDArray[np.float64]:
        """(num_videos,) mean loss of each video's views; NaN without label or view."""
        seen = (self.views > 0) & (self.labels >= 0)
        return np.where(seen, self._loss / np.maximum(self.views, 1), np.nan)

    def of_clips(self) -> dict[str, float]:
        """`loss`, `clip_top1` and `clip_top5` of the labelled views so far; fast, because no video is scored."""
        labelled = int(self.views[self.labels >= 0].sum())
        if not labelled:
            return {}
        sums = {"loss": self._loss, "clip_top1": self._top1, "clip_top5": self._top5}
        return {name: float(values.sum()) / labelled for name, values in sums.items()}

    def summary(self) -> dict[str, float | int]:
        """Loss and accuracies (0..1), and the counts behind them.

        `num_labelled_clips` is what clip accuracy and loss are divided by, `num_labelled_videos` what video accuracy
        is divided by: a labelled video without a view counts as wrong.
        """
        labelled = self.labels >= 0
        result: dict[str, float | int] = {
            "num_videos": int((self.views > 0).sum()),
            "num_labelled_videos": int(labelled.sum()),
            "num_clips": int(self.views.sum()),
            "num_labelled_clips": int(self.views[labelled].sum()),
            **self.of_clips(),
        }
        if result["num_labelled_clips"]:
            for name, right in zip(("video_top1", "video_top5"), self.video_hits(), strict=True):
                result[name] = int(right.sum()) / int(labelled.sum())
        return result

    def video_hits(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(num_videos,) whether each video's label is its best score, and among its five best."""
        seen = np.flatnonzero((self.views > 0) & (self.labels >= 0))
        hits = np.zeros((2, len(self.views)), bool)
        probabilities = self.probabilities()[seen]
        for row, k in enumerate((1, 5)):
            hits[row, seen] = topk_correct(probabilities, self.labels[seen], k)
        return hits[0], hits[1]
