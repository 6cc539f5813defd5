"""The line that evaluation prints for a step, with and without labels."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from train.evaluation.metrics import Scores
from train.evaluation.scoring import log_step


def test_a_steps_line_is_made_of_running_sums(caplog, monkeypatch):
    scores = Scores(num_videos=3, num_classes=3)
    logits = np.log(np.array([[0.5, 0.4, 0.1], [0.1, 0.8, 0.1]], np.float32))
    scores.add(logits, np.array([0, 0], np.int32), np.array([0, 0]))
    loss = scores.add(logits[1:], np.array([1], np.int32), np.array([1]))
    assert loss == pytest.approx(-np.log(0.8), rel=1e-6)
    for whole in ("summary", "probabilities"):  # a loop over all videos, too slow after each batch
        monkeypatch.delattr(Scores, whole)
    on_step = log_step(SimpleNamespace(num_batches=7))
    with caplog.at_level(logging.INFO):
        on_step(1, 1, loss, scores, 0.5)
    running = -np.log([0.5, 0.1, 0.8]).mean()
    assert (
        f"step:[    2/    7], metrics:['Loss: {running:.4f}', 'Top_1_Accuracy: 0.6667', 'Top_5_Accuracy: 1.0000'], "
        f"loss:[{-np.log(0.8):.3f}/{running:.3f}], time:500.000 ms, 2.0 clips/s"
    ) in caplog.text


def test_a_step_without_labels_has_no_accuracy(caplog):
    scores = Scores(num_videos=1, num_classes=3)
    loss = scores.add(np.zeros((1, 3), np.float32), np.array([-1], np.int32), np.array([0]))
    with caplog.at_level(logging.INFO):
        log_step(SimpleNamespace(num_batches=1))(0, 1, loss, scores, 0.5)
    assert re.search(r"metrics:\[\], time:", caplog.text) and "nan" not in caplog.text
