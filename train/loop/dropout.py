"""Dropout drawn on the host: a function of (seed, epoch, sample), as clips are.

A random operator inside the graph has a state that a checkpoint cannot hold, and after a restart would drop other
features; this way neither a restart nor the number of devices changes what is trained.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kept(
    samples: NDArray[np.int64], num_features: int, fraction: float, *, seed: int, epoch: int
) -> NDArray[np.float32]:
    """What to multiply the features of a batch by.

    Args:
        samples: (N,) sample numbers.
        num_features: C, of each sample.
        fraction: of the features to drop, in [0, 1).
        seed: of the run.
        epoch: 0-based.

    Returns:
        (N, C) float32: 0 where a feature is dropped, else 1 / (1 - fraction).
    """
    drawn = np.stack([np.random.default_rng([seed, epoch, sample, 2]).random(num_features) for sample in samples])
    return np.where(drawn < fraction, 0, 1 / (1 - fraction)).astype(np.float32)
