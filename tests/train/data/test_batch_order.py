"""The order of samples: each once per epoch, the same for a seed, divided evenly between all ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.data import batch_order

shards = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(lambda each: np.array(each, np.int32))


@given(shards, st.integers(0, 3), st.integers(0, 3), st.integers(0, 8))
def test_epoch_has_every_sample_once_in_a_seeded_order(shard_of, seed, epoch, open_shards):
    first = batch_order.shuffled(shard_of, seed=seed, epoch=epoch, open_shards=open_shards)
    assert sorted(first.tolist()) == list(range(len(shard_of)))
    again = batch_order.shuffled(shard_of, seed=seed, epoch=epoch, open_shards=open_shards)
    assert (first == again).all()


@given(shards, st.integers(1, 8))
def test_no_more_shards_are_open_than_asked(shard_of, open_shards):
    in_order = shard_of[batch_order.shuffled(shard_of, seed=0, epoch=0, open_shards=open_shards)].tolist()
    last = {shard: place for place, shard in enumerate(in_order)}
    opened: set[int] = set()
    for place, shard in enumerate(in_order):
        opened.add(shard)
        assert len(opened) <= open_shards
        if last[shard] == place:
            opened.remove(shard)


def test_shuffling_by_shards_mixes_those_that_are_open():
    shard_of = np.repeat(np.arange(40, dtype=np.int32), 50)
    in_order = shard_of[batch_order.shuffled(shard_of, seed=0, epoch=0, open_shards=8)]
    batches = in_order[400:1600].reshape(-1, 16)  # away from the ends, where fewer are open
    assert np.mean([len(set(batch.tolist())) for batch in batches]) > 6
    assert not np.array_equal(in_order, shard_of[batch_order.shuffled(shard_of, seed=0, epoch=1, open_shards=8)])


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_ranks_share_samples_and_make_as_many_steps(num_samples, size, world, drop):
    steps = batch_order.num_batches(num_samples, size, world=world, drop_remainder=drop)
    mixed = np.random.default_rng(0).permutation(num_samples)
    ranks = [
        [batch_order.samples_of(mixed, number, size, rank=rank, world=world) for number in range(steps)]
        for rank in range(world)
    ]
    seen = np.array(ranks, np.int64).reshape(-1)
    assert len(seen) == steps * size * world
    real = seen[seen >= 0]
    assert len(set(real.tolist())) == len(real)
    if drop:
        assert len(real) == len(seen) and num_samples - len(real) < size * world
    else:
        assert sorted(real.tolist()) == list(range(num_samples))


@given(st.integers(1, 4), st.integers(1, 4))
def test_samples_of_a_step_do_not_depend_on_rank_count(size, world):
    mixed = np.random.default_rng(1).permutation(100)
    alone = batch_order.samples_of(mixed, 2, size * world)
    shared = [batch_order.samples_of(mixed, 2, size, rank=rank, world=world) for rank in range(world)]
    assert np.concatenate(shared).tolist() == alone.tolist()
