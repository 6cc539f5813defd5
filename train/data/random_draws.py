"""Random numbers by sample number, for many samples at once; clips, crops and flips are drawn from them.

The numbers of a sample depend on (seed, epoch, sample) only, so that neither the number of workers and ranks nor a
restart changes them.  A numpy Generator for each sample took 30 us of CPU a clip, this takes 4 (measured).
train/loop/dropout.py still uses one Generator a sample: another source would change the bits of resumed runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS_AND_FACTORS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def splitmix64(key: np.uint64, numbers: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Outputs of the generator SplitMix64 (Steele, Lea, Flood 2014) seeded with `key`; the first is number 0."""
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * _GAMMA + key
    for shift, factor in _SHIFTS_AND_FACTORS:
        mixed ^= mixed >> shift
        mixed *= factor
    mixed ^= mixed >> np.uint64(31)
    return mixed


class Draws:
    """`each` random numbers, uniform in [0, 1), for any owner (a sample, a clip or a video).

    Args:
        key: integers, at least 0, such as seed, epoch and purpose.
        each: how many numbers an owner has.
    """

    def __init__(self, *key: int, each: int) -> None:
        self._key: np.uint64 = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        self._each = np.arange(each)

    def of(self, owners: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers, (N, each) float64, of `owners`, (N,) integers, at least 0; they do not depend on the others."""
        numbers = owners[:, None] * len(self._each) + self._each
        return (splitmix64(self._key, numbers) >> np.uint64(11)) * 2.0**-53
