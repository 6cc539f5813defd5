"""Feeds an epoch's batches to the trainer through MindSpore's GeneratorDataset; threads prepare them in advance.

One item of the GeneratorDataset is one whole batch.  Threads share its memory, so `/dev/shm` is not used at all.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator

import mindspore.dataset as ms_dataset
import numpy as np

from pipeline.common.errors import UserError
from train.data.clip_batches import Batch, ClipBatches
from train.data.prefetch import LoaderError, Prefetcher
from train.experiment.sections import Dataset

# Batches made in advance: two more than threads, but at most this many bytes.  MindSpore and the consumer's thread
# hold four more.
PREFETCH_BYTES = 256 << 20

# The last item when making a batch fails.
_NO_BATCH = (np.zeros(0, np.uint8), np.zeros(0, np.int32), np.zeros(0, np.int64))


class _Source:
    """The source of a GeneratorDataset: the rest of an epoch, from batch `start`.

    Attributes:
        failure: the error that the consumer must raise.  MindSpore would wrap it in a page of text, and outside the
            main thread it crashes when its source raises anything.
    """

    def __init__(self, batches: ClipBatches, start: int) -> None:
        self.failure: Exception | None = None
        threads = batches.options.num_parallel_workers
        depth = max(2, min(threads + 2, PREFETCH_BYTES // batches.batch_nbytes()))
        self._prefetcher = Prefetcher(
            lambda number: batches.batch(start + number),
            batches.num_batches - start,
            num_threads=threads,
            depth=depth,
            timeout_s=batches.options.batch_timeout_s,
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._prefetcher
        except Exception as error:
            self.failure = error
            yield _NO_BATCH

    def close(self) -> None:
        self._prefetcher.close()


def iterate(batches: ClipBatches, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
    """The batches of one epoch from number `start` on, made in advance by `num_parallel_workers` threads.

    Raises:
        UserError: a shard is missing, corrupted, or made with another recipe.
        LoaderError: a worker thread died, or no batch came in time.
    """
    batches.set_epoch(epoch)
    if start >= batches.num_batches:
        return
    source = _Source(batches, start)
    ms_dataset.config.set_prefetch_size(2)
    dataset = ms_dataset.GeneratorDataset(
        source, column_names=["clips", "labels", "samples"], shuffle=False, python_multiprocessing=False
    )
    iterator = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True, do_copy=False)
    # MindSpore needs 0.3 to 0.4 ms to hand over a batch that is ready (measured): one more thread requests it in
    # advance, and the consumer gets it in 0.1 ms.  There is no time limit here because the source has one.
    ready = Prefetcher(
        lambda _number: tuple(next(iterator)), batches.num_batches - start, num_threads=1, depth=1, timeout_s=None
    )
    try:
        yield from itertools.takewhile(lambda batch: batch[2].size, ready)
        if isinstance(source.failure, UserError):
            raise source.failure from None
        if source.failure is not None:
            raise LoaderError(f"A thread that makes batches died: {source.failure!r}.") from source.failure
    finally:
        source.close()
        ready.close()


def waiting_hint(options: Dataset, data_wait: float) -> str:
    """What to change if more than 5 % of the time is spent waiting for batches; empty below that."""
    if data_wait <= 0.05:
        return ""
    threads, cores = options.num_parallel_workers, os.cpu_count() or 1
    if options.verify_checksums:
        return (
            ": data_loader.train.dataset.verify_checksums reads every video completely once; if waiting continues "
            "after the first epoch, set it to false (`make verify` checks the same)"
        )
    if threads < cores:
        return f": increase data_loader.train.dataset.num_parallel_workers (now {threads}, of {cores} cores)"
    return (
        f": {threads} threads on {cores} cores are too slow; for a slow disk set data_loader.train.dataset."
        f"shuffle_shards (now {options.shuffle_shards}), for codec jpeg add cores or use codec raw"
    )
