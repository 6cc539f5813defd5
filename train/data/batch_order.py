"""Which samples make which batch, on every rank: pure functions of (seed, epoch).

Ranks take turns batch by batch: batch k of rank r is global batch k * world + r, so that all have as many, and the
samples of a step do not depend on how many ranks there are as long as world * batch_size stays the same.
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
        open_shards: 0: any order.  Otherwise shards are taken in a random order, at most so many of them are open at
            any time, and one that is used up makes room for the next: a cold disk then reads each shard once.

    Returns:
        (N,) int64, each sample once.
    """
    rng = np.random.default_rng([seed, epoch])
    if not open_shards:
        return rng.permutation(len(shard_of))
    # Shard number p in the random order gives its samples at random times between p and p + open_shards.
    place = rng.permutation(int(shard_of.max()) + 1)
    times = place[shard_of] + open_shards * rng.random(len(shard_of))
    return np.argsort(times, kind="stable")


def num_batches(num_samples: int, batch_size: int, *, world: int = 1, drop_remainder: bool) -> int:
    """Batches of an epoch on each rank, the same on all.

    Args:
        num_samples: of all ranks together.
        batch_size: clips in one batch of one rank.
        world: number of ranks.
        drop_remainder: leave out the samples that do not fill a batch on every rank; otherwise none is left out.
    """
    full, rest = divmod(num_samples, batch_size * world)
    return full + (rest > 0 and not drop_remainder)


def samples_of(
    order: NDArray[np.int64], number: int, batch_size: int, *, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Batch `number` of a rank: (batch_size,) int64 sample numbers, -1 where the samples have run out."""
    first = (number * world + rank) * batch_size
    taken = order[first : first + batch_size]
    samples = np.full(batch_size, -1, np.int64)
    samples[: len(taken)] = taken
    return samples
