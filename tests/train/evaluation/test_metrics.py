"""Accuracies and losses of clips and videos are right, even with ties, NaN and missing labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from train.evaluation.metrics import Scores, log_softmax, topk_correct


@given(hnp.arrays(np.float32, (4, 6), elements=st.integers(-3, 3).map(float)), st.integers(1, 6))
def test_topk_agrees_with_a_stable_sort(scores, k):
    labels = np.array([0, 2, 5, 3], np.int32)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = [label in row for label, row in zip(labels, best, strict=True)]
    assert topk_correct(scores, labels, k).tolist() == expected


def test_constant_scores_are_right_by_chance_only():
    labels = np.arange(8, dtype=np.int32)
    assert topk_correct(np.zeros((8, 8), np.float32), labels, 1).mean() == 1 / 8


@pytest.mark.parametrize("k", [1, 5, 9])
def test_scores_that_are_nan_are_never_correct(k):
    scores = np.zeros((3, 8), np.float32)
    scores[0], scores[1, 2], scores[2, 3:] = np.nan, np.nan, np.nan
    labels = np.array([0, 2, 0], np.int32)
    assert topk_correct(scores, labels, k).tolist() == [False, False, k == 9]  # in the last row, the other five are NaN
    scores = Scores(num_videos=2, num_classes=8)
    scores.add(np.full((2, 8), np.nan, np.float32), np.array([0, 1], np.int32), np.array([0, 1]))
    summary = scores.summary()
    assert summary["video_top1"] == summary["video_top5"] == summary["clip_top1"] == summary["clip_top5"] == 0
    assert np.isnan(summary["loss"])


def test_log_softmax_of_large_logits():
    logits = np.array([[1000.0, 0.0]], np.float32)
    assert log_softmax(logits)[0] == pytest.approx([0.0, -1000.0])


def test_videos_are_scored_by_the_mean_of_their_views():
    scores = Scores(num_videos=3, num_classes=3)
    logits = np.log(np.array([[0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]], np.float32))
    scores.add(logits[:3], np.array([1, 1, 0], np.int32), np.array([0, 0, 1]))
    scores.add(logits[3:], np.array([-1], np.int32), np.array([2]))
    summary = scores.summary()
    assert summary["num_videos"] == 3 and summary["num_labelled_videos"] == 2 and summary["num_clips"] == 4
    assert summary["clip_top1"] == pytest.approx(1 / 3)  # only the second of the labelled clips is right
    assert summary["video_top1"] == pytest.approx(1 / 2)  # its video is right, by the mean of both views
    assert summary["loss"] == pytest.approx(-np.log([0.4, 0.8, 0.2]).mean(), rel=1e-6)


def test_average_of_logits_may_be_another_class():
    logits = np.array([[9.0, 0.0, 4.0], [0.0, 1.0, 4.0], [7.0, 0.0, 0.0]], np.float32)
    labels, videos, times = np.array([2, 2, 0], np.int32), np.array([0, 0, 1]), np.array([1, 3, 1])
    softmax = np.exp(log_softmax(logits))
    expected = {
        "softmax": (softmax[0] + 3 * softmax[1]) / 4,
        "logits": np.exp(log_softmax((logits[:1] + 3 * logits[1:2]) / 4))[0],
    }
    assert not np.allclose(expected["softmax"], expected["logits"], atol=0.01)
    for average, of_first in expected.items():
        scores = Scores(3, 3, average)
        scores.add(logits, labels, videos, times)
        np.testing.assert_allclose(scores.probabilities(), [of_first, softmax[2], np.zeros(3)], atol=1e-12)
    equal = np.array([[3.0, 0.0, 2.9], [0.0, 3.0, 2.9]], np.float32)
    hits = []
    for average in expected:
        scores = Scores(1, 3, average)
        scores.add(equal * 10, np.array([2, 2], np.int32), np.array([0, 0]))
        hits.append(scores.summary()["video_top1"])
    assert hits == [0.0, 1.0]


def test_an_unlabelled_split_has_no_accuracy():
    scores = Scores(num_videos=1, num_classes=2)
    scores.add(np.zeros((1, 2), np.float32), np.array([-1], np.int32), np.array([0]))
    assert set(scores.summary()) == {"num_videos", "num_labelled_videos", "num_clips", "num_labelled_clips"}
