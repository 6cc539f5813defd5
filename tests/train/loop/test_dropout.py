"""Dropout keeps the mean and depends only on seed, epoch and sample, so that runs resume exactly."""

import numpy as np
import pytest

from train.loop.dropout import factors


def test_a_fraction_is_dropped_and_the_mean_stays():
    drawn = factors(np.arange(50), 400, 0.2, seed=0, epoch=0)
    assert drawn.dtype == np.float32 and drawn.shape == (50, 400)
    assert set(np.unique(drawn).tolist()) == {0.0, 1.25}
    assert (drawn == 0).mean() == pytest.approx(0.2, abs=0.01)


def test_dropout_depends_only_on_seed_epoch_and_sample():
    together = factors(np.array([3, 9]), 100, 0.5, seed=1, epoch=2)
    np.testing.assert_array_equal(factors(np.array([9]), 100, 0.5, seed=1, epoch=2)[0], together[1])
    others = [factors(np.array([9]), 100, 0.5, seed=seed, epoch=epoch)[0] for seed, epoch in ((0, 2), (1, 3))]
    for other in (together[0], *others):
        assert (other != together[1]).any()
