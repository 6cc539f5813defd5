"""An epoch's batches through MindSpore's GeneratorDataset, one item a whole batch, made ahead by threads.

Threads share a batch's memory, so `/dev/shm` is not used at all.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator

import mindspore.dataset as ms_dataset
import numpy as np

from pipeline.common.errors import UserError
from train.data.clip_batches import Batch, ClipBatches
from train.data.prefetch import Ahead, LoaderError
from train.experiment.sections import Dataset

# Batches made ahead: two more than there are threads, if that many bytes hold them.  MindSpore and the consumer's
# thread hold four more.
PREFETCH_BYTES = 256 << 20


# Comes last when making batches fails.
_NO_BATCH = (np.zeros(0, np.uint8), np.zeros(0, np.int32), np.zeros(0, np.int64))


class _Source:
    """What GeneratorDataset iterates over: the rest of an epoch, from batch `start`.

    Attributes:
        failure: what went wrong, for the consumer to raise.  MindSpore would wrap it in a page of text, and in a thread
            that is not the main one it crashes when its source raises anything.
    """

    def __init__(self, batches: ClipBatches, start: int) -> None:
        self.failure: Exception | None = None
        threads = batches.options.num_parallel_workers
        depth = max(2, min(threads + 2, PREFETCH_BYTES // batches.batch_nbytes()))
        self._ahead = Ahead(
            lambda number: batches.batch(start + number),
            batches.num_batches - start,
            num_threads=threads,
            depth=depth,
            timeout_s=batches.options.batch_timeout_s,
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._ahead
        except Exception as error:
            self.failure = error
            yield _NO_BATCH

    def close(self) -> None:
        self._ahead.close()


def iterate(batches: ClipBatches, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
    """The batches of one epoch from number `start` on, made ahead by `num_parallel_workers` threads.

    Raises:
        UserError: what the source met: a shard missing, damaged, or of another recipe.
        LoaderError: a worker died, or no batch came in time.
    """
    batches.set_epoch(epoch)
    if start >= batches.num_batches:
        return
    source = _Source(batches, start)
    ms_dataset.config.set_prefetch_size(2)
    dataset = ms_dataset.GeneratorDataset(
        source, column_names=["clips", "labels", "samples"], shuffle=False, python_multiprocessing=False
    )
    made = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True, do_copy=False)
    # MindSpore takes 0.3 to 0.4 ms to hand over a batch that is ready (measured): a thread of its own asks for it in
    # time, and the consumer has it in 0.1 ms.  How long a batch may take is the source's to say.
    taken = Ahead(
        lambda _number: tuple(next(made)), batches.num_batches - start, num_threads=1, depth=1, timeout_s=None
    )
    try:
        yield from itertools.takewhile(lambda batch: batch[2].size, taken)
        if isinstance(source.failure, UserError):
            raise source.failure from None
        if source.failure is not None:
            raise LoaderError(f"a worker that makes batches died: {source.failure!r}") from source.failure
    finally:
        source.close()
        taken.close()


def waiting_hint(options: Dataset, data_wait: float) -> str:
    """What to change when more than 1 % of the time goes into waiting for batches; empty below that."""
    if data_wait <= 0.01:
        return ""
    threads, cores = options.num_parallel_workers, os.cpu_count() or 1
    if options.verify_checksums:
        return (
            ": data_loader.train.dataset.verify_checksums reads each video whole when it is first met; if waiting does "
            "not end with the first epoch, set it to false (`make verify` checks the same)"
        )
    if threads < cores:
        return f": raise data_loader.train.dataset.num_parallel_workers (now {threads}, of {cores} cores)"
    return (
        f": {threads} threads on {cores} cores do not keep up; with a slow disk set data_loader.train.dataset."
        f"shuffle_shards (now {options.shuffle_shards}), with codec jpeg add cores or store raw"
    )
