"""Every learning-rate schedule, step by step, compared with values calculated by hand."""

import math

import numpy as np
import pytest
from paths import CONFIGS

from pipeline.common.errors import UserError
from pipeline.common.settings import Document
from train.experiment.load import load_config
from train.experiment.sections import LearningRate
from train.loop.lr_schedule import learning_rates

TORCHVISION = CONFIGS / "torchvision.yaml"


def test_warm_up_then_cosine_by_hand():
    settings = LearningRate(lr=1.0, eta_min=0.2, warmup_epochs=1)
    rates = learning_rates(settings, clips_per_step=1, epochs=3, steps_per_epoch=2)
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(4)]
    assert rates == pytest.approx([0.5, 1.0, *cosine])
    assert rates[2] == 1.0 and rates[-1] == pytest.approx(0.2)


def test_a_rate_that_would_rise_to_eta_min_is_refused():
    settings = LearningRate(lr=1.0, eta_min=0.2, lr_batch_size=64)
    assert learning_rates(settings, clips_per_step=16, epochs=3, steps_per_epoch=2)[0] == 0.25
    with pytest.raises(
        UserError, match=r"eta_min: got 0\.2, expected at most the highest rate, 0\.125: lr 1 scaled from"
    ):
        learning_rates(settings, clips_per_step=8, epochs=3, steps_per_epoch=2)


def test_constant():
    settings = LearningRate(lr_scheduler="constant", lr=0.5)
    assert learning_rates(settings, clips_per_step=1, epochs=2, steps_per_epoch=2) == [0.5] * 4


def test_warm_up_longer_than_the_training():
    settings = LearningRate(lr=1.0, warmup_epochs=9)
    rates = learning_rates(settings, clips_per_step=1, epochs=1, steps_per_epoch=4)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_step_falls_every_so_many_epochs():
    settings = LearningRate(lr_scheduler="step", lr=1.0, lr_epochs=(2,), lr_gamma=0.5)
    rates = learning_rates(settings, clips_per_step=1, epochs=5, steps_per_epoch=2)
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_torchvisions_recipe_at_every_step():
    # references/video_classification/train.py: LinearLR(start_factor=0.001, total_iters=10 epochs), in sequence with
    # MultiStepLR(milestones of 20, 30 and 40 epochs, counted from the warm-up's end, gamma=0.1); 64 GPUs of 24 clips.
    per_epoch = 2430
    settings = load_config(Document(TORCHVISION)).learning_rate
    rates = learning_rates(settings, clips_per_step=24 * 64, epochs=45, steps_per_epoch=per_epoch)
    steps = np.arange(45 * per_epoch)
    warming = 0.64 * (0.001 + 0.999 * steps / (10 * per_epoch))
    falls = sum((steps - 10 * per_epoch >= (epoch - 10) * per_epoch).astype(int) for epoch in (20, 30, 40))
    np.testing.assert_allclose(rates, np.where(steps < 10 * per_epoch, warming, 0.64 * 0.1**falls), rtol=1e-12)
    assert rates[0] == pytest.approx(0.00064) and rates[10 * per_epoch] == 0.64
