"""Draws dropout on the host for the training step, as a function of (seed, epoch, sample), like the clips.

A random operator in the graph has a state that a checkpoint cannot hold, so a restart would drop other features.  Drawn
here, neither a restart nor the number of devices changes the training.
Each sample has a numpy Generator, not train/data/random_draws.py, which is newer: resumed runs must get the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def factors(
    samples: NDArray[np.int64], num_features: int, fraction: float, *, seed: int, epoch: int
) -> NDArray[np.float32]:
    """The factors of a batch's features.

    Args:
        samples: (N,) sample numbers.
        num_features: C, for each sample.
        fraction: of the features to drop, in [0, 1).
        seed: of the run.
        epoch: 0-based.

    Returns:
        (N, C) float32: 0 where a feature is dropped, else 1 / (1 - fraction).
    """
    drawn = np.stack([np.random.default_rng([seed, epoch, sample, 2]).random(num_features) for sample in samples])
    return np.where(drawn < fraction, 0, 1 / (1 - fraction)).astype(np.float32)
