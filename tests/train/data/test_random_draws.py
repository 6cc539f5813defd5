"""Random draws are uniform and depend only on seed, epoch, purpose and owner, so that runs can be repeated."""

import numpy as np

from train.data.random_draws import Draws, splitmix64


def test_splitmix64_is_the_published_generator():
    # The first numbers of seed 1234567, as printed with other implementations.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(np.uint64(1234567), np.arange(4)).tolist() == expected


def test_draws_of_an_owner_do_not_depend_on_others():
    draws = Draws(7, 2, 0, each=3)
    owners = np.array([5, 0, 10**12, 5])
    together = draws.of(owners)
    assert together.shape == (4, 3) and together.dtype == np.float64
    assert all((draws.of(owners[place : place + 1])[0] == row).all() for place, row in enumerate(together))
    assert (together[0] == together[3]).all()
    assert draws.of(np.zeros(0, np.int64)).shape == (0, 3)


def test_draws_differ_by_seed_epoch_purpose_and_owner():
    keys = [(seed, epoch, purpose) for seed in range(3) for epoch in range(3) for purpose in range(2)]
    drawn = np.concatenate([Draws(*key, each=2).of(np.arange(50)).ravel() for key in keys])
    assert len(set(drawn.tolist())) == len(keys) * 100


def test_draws_are_uniform_and_independent():
    first, second = (Draws(0, epoch, 0, each=3).of(np.arange(40_000)) for epoch in (0, 1))
    assert 0 <= first.min() and first.max() < 1
    counts = np.stack([np.bincount((column * 16).astype(int), minlength=16) for column in first.T])
    assert np.abs(counts - 2500).max() < 5 * 2500**0.5
    columns = np.column_stack([first[1:], first[:-1], second[1:]])
    correlations = np.corrcoef(columns.T) - np.eye(9)
    assert np.abs(correlations).max() < 5 / 40_000**0.5
