import math

import pytest

from train.config import LearningRate
from train.lr_schedule import learning_rates


def test_warm_up_then_cosine_by_hand():
    settings = LearningRate(lr=1.0, eta_min=0.2, warmup_epochs=1)
    rates = learning_rates(settings, epochs=3, steps_per_epoch=2)
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(4)]
    assert rates == pytest.approx([0.5, 1.0, *cosine])
    assert rates[2] == 1.0 and rates[-1] == pytest.approx(0.2)


def test_constant():
    settings = LearningRate(lr_scheduler="constant", lr=0.5)
    assert learning_rates(settings, epochs=2, steps_per_epoch=2) == [0.5] * 4


def test_warm_up_longer_than_the_training():
    settings = LearningRate(lr=1.0, warmup_epochs=9)
    rates = learning_rates(settings, epochs=1, steps_per_epoch=4)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])
