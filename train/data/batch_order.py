"""Chooses the samples of each batch on each rank, for the trainer: pure functions of (seed, epoch).

Ranks take turns batch by batch: batch k of rank r is global batch k * world + r.  So all ranks have the same number of
batches, and the samples of a step do not depend on the number of ranks as long as world * batch_size is the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shuffled(shard_of: NDArray[np.int32], *, seed: int, epoch: int, open_shards: int = 0) -> NDArray[np.int64]:
    """The order of an epoch's samples.

    Args:
        shard_of: (N,) shard of each sample, 0..S-1.
        seed: of the run.
        epoch: 0-based.
        open_shards: 0: any order.  Otherwise shards come in a random order and at most this many are in use at a time;
            when one is used up, the next is opened.  A cold disk then reads each shard once.

    Returns:
        (N,) int64, each sample number once.
    """
    rng = np.random.default_rng([seed, epoch])
    if not open_shards:
        return rng.permutation(len(shard_of))
    # The samples of shard number p in the random order get random times between p and p + open_shards.
    place = rng.permutation(int(shard_of.max()) + 1)
    times = place[shard_of] + open_shards * rng.random(len(shard_of))
    return np.argsort(times, kind="stable")


def num_batches(num_samples: int, batch_size: int, *, world: int = 1, drop_remainder: bool) -> int:
    """Batches of an epoch on each rank, the same number on all.

    Args:
        num_samples: of all ranks together.
        batch_size: clips in one batch of one rank.
        world: number of ranks.
        drop_remainder: leave out the samples that do not fill a batch on every rank; otherwise use all.
    """
    full, rest = divmod(num_samples, batch_size * world)
    return full + (rest > 0 and not drop_remainder)


def samples_of(
    order: NDArray[np.int64], number: int, batch_size: int, *, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Batch `number` of a rank: (batch_size,) int64 sample numbers, -1 after the last sample."""
    first = (number * world + rank) * batch_size
    real = order[first : first + batch_size]
    samples = np.full(batch_size, -1, np.int64)
    samples[: len(real)] = real
    return samples
