"""Copies batches of clips out of the shards, for training and evaluation; train/data/loader.py feeds them to MindSpore.

A thread copies a whole batch directly from the shards into the batch's memory, each clip in one call that does not hold
the GIL.  Frames, crop and flip of a sample depend on (seed, epoch, sample number) only, so neither the number of
workers nor a restart changes what is trained on.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import ShardError, UserError
from pipeline.common.recipe import Preprocess
from pipeline.shards.reader import ShardReader
from train.data import batch_order
from train.data.buffers import Buffers
from train.data.clip_sampling import as_ranges
from train.data.videos import Videos
from train.data.views import PlannedViews, Views
from train.experiment.sections import Dataset, Loader

log = logging.getLogger(__name__)

# Shards that a process keeps mapped or open, far below the usual limits; of more, the least recently used is closed.
MAX_OPEN_SHARDS = 256
# Clips planned in one call: numpy needs about as long for 16 as for 256, and holds the GIL for that time.
PLANNED_CLIPS = 256

Batch = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]


class _Plan(NamedTuple):
    """The content of B batches of N clips.

    Attributes:
        samples: (B, N) sample numbers, -1 where there is none.
        labels: (B, N), -1 where there is none.
        cuts: for each clip its video, shard, frames, top, left, and whether it is mirrored.
    """

    samples: NDArray[np.int64]
    labels: NDArray[np.int32]
    cuts: list[tuple[int, int, range | list[int], int, int, bool]]


class ClipBatches:
    """The batches of every epoch on one rank, one epoch after the other (`set_epoch`).

    A sample is one view (clip and crop) of one video.  Training shuffles the samples and leaves out the few that do
    not fill a batch on every rank (other ones each epoch).  Evaluation takes all samples in order and fills the last
    batches with sample -1: all batches have one shape, all ranks have the same number, and no sample is lost.

    Args:
        videos: the videos to take clips from.
        loader: the `data_loader.train` or `data_loader.eval` section.
        settings: the recipe that the shards must have.
        seed: of order and augmentation.
        drop_remainder: leave out the last incomplete batch instead of filling it.
        rank: number of this process among those that train together.
        world: number of processes; each has batches of `batch_size`.
        views: the views to take; None: those of `loader`.

    Attributes:
        num_batches: in an epoch, on each rank.
        read_ahead: whether the kernel reads all clips of a batch before they are copied.  `set_epoch` sets it if the
            shards do not fit into memory, and in the first epoch, when they may not be in memory yet.

    Raises:
        UserError: the split has fewer clips than one batch.
    """

    def __init__(
        self,
        videos: Videos,
        loader: Loader,
        settings: Preprocess,
        *,
        seed: int,
        drop_remainder: bool,
        rank: int = 0,
        world: int = 1,
        views: PlannedViews | None = None,
    ) -> None:
        self.videos = videos
        self.options: Dataset = loader.dataset
        self.views = views or Views(loader, settings.frame_size, seed, settings.fps)
        self._recipe_sha256 = settings.fingerprint()
        self._seed, self._rank, self._world = seed, rank, world
        memory = free_memory_bytes()
        self._fits = videos.nbytes < memory
        self._stay_mapped = self._fits and len(videos.shards) <= MAX_OPEN_SHARDS
        self._begun, self.read_ahead = False, True
        log.info(
            "%s: %.1f GiB of frames in %d shards, %.1f GiB of memory free: %s; read ahead %s",
            videos.name, videos.nbytes / 2**30, len(videos.shards), memory / 2**30,
            "mapped" if self._stay_mapped else "raw clips without gaps are read with preadv, others mapped",
            "in the first epoch" if self._fits else "in every epoch, because the page cache cannot hold them",
        )  # fmt: skip
        num_samples = self.views.num_samples(len(videos.video_ids))
        size = self.options.batch_size
        self.num_batches = batch_order.num_batches(num_samples, size, world=world, drop_remainder=drop_remainder)
        if not self.num_batches:
            raise UserError(
                f"data_loader.train.dataset.batch_size: got {size}{f' on {world} ranks' if world > 1 else ''}, but "
                f"{videos.name} has only {num_samples} clips an epoch. Set it to at most {num_samples // world}."
            )
        self._buffers = Buffers((size, self.options.seq, *self.views.crop, 3))
        self._known: dict[int, ShardReader] = {}  # every shard opened so far: its tables are small, its file closed
        # Copies whose file is open, least recently used first.
        self._in_use: OrderedDict[int, ShardReader] = OrderedDict()
        self._rows = np.full(len(videos.video_ids), -1, np.int32)  # row of each video in its shard, once it was opened
        self._verified = np.zeros(len(videos.video_ids), bool)
        self._lock = threading.Lock()  # for the readers
        self._planning = threading.Lock()
        self._batches_planned = max(1, PLANNED_CLIPS // size)
        self._plan: Callable[[int], _Plan]  # block number -> plan of its batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the clips of an epoch (0-based) and their order; must be called before `batch`."""
        self.read_ahead = not (self._fits and self._begun)
        self._begun = True
        options = self.options
        ordered = np.arange(self.views.num_samples(len(self.videos.video_ids)))
        if options.shuffle:
            shard_of = self.videos.shard_of[self.views.video_of(ordered)]
            ordered = batch_order.shuffled(shard_of, seed=self._seed, epoch=epoch, open_shards=options.shuffle_shards)
        # Keep the blocks that the threads may be working on, and those of batches that wait.
        blocks = 2 + (options.num_parallel_workers + 6) // self._batches_planned
        self._plan = functools.lru_cache(maxsize=blocks)(functools.partial(self._plan_of, ordered, epoch))

    def batch(self, number: int) -> Batch:
        """Batch `number` of the epoch: clips (N, T, H, W, 3) uint8, labels (N,) int32, sample numbers (N,) int64.

        Raises:
            UserError: a shard is missing, corrupted, or made with another recipe.
        """
        block, place = divmod(number, self._batches_planned)
        size = self.options.batch_size
        with self._planning:  # otherwise every thread would plan the block that all wait for
            plan = self._plan(block)
        cuts = plan.cuts[place * size : (place + 1) * size]
        clips = self._buffers.take()
        readers = []
        video = -1
        try:
            with self._lock:
                for video, shard, *_rest in cuts:  # noqa: B007  the error below names the video
                    readers.append(self._reader(shard))
            rows = self._rows[[cut[0] for cut in cuts]].tolist()
            places = list(zip(cuts, readers, rows, strict=True))
            if self.read_ahead:
                for (video, _, frames, *_), reader, row in places:  # noqa: B007  the error below names the video
                    reader.read_ahead(row, frames)
            for ((video, _, frames, top, left, flip), reader, row), clip in zip(places, clips, strict=False):
                if self.options.verify_checksums and not self._verified[video]:
                    reader.verify(row)
                    self._verified[video] = True
                reader.copy_clip(row, frames, top, left, clip, flip=flip)
        except ShardError as error:
            raise ShardError(error.path, error.what, error.action, self.videos.video_ids[video]) from None
        clips[len(cuts) :] = 0
        return clips, plan.labels[place], plan.samples[place]

    def _plan_of(self, ordered: NDArray[np.int64], epoch: int, block: int) -> _Plan:
        begin = block * self._batches_planned
        numbers = range(begin, min(begin + self._batches_planned, self.num_batches))
        size, rank, world = self.options.batch_size, self._rank, self._world
        samples = np.stack([batch_order.samples_of(ordered, each, size, rank=rank, world=world) for each in numbers])
        real = samples[samples >= 0]  # all but at the end of the epoch
        videos = self.views.video_of(real)
        labels = np.full(samples.shape, -1, np.int32)
        labels[samples >= 0] = self.videos.label_ids[videos]
        frames, *places = self.views.cuts(real, self.videos.timeline.of(videos), epoch)
        columns = [videos.tolist(), self.videos.shard_of[videos].tolist(), as_ranges(frames)]
        columns += [each.tolist() for each in places]
        return _Plan(samples, labels, list(zip(*columns, strict=True)))

    def batch_nbytes(self) -> int:
        """Size of one batch's clips in bytes."""
        return int(np.prod((self.options.batch_size, self.options.seq, *self.views.crop, 3)))

    def _reader(self, shard: int) -> ShardReader:
        """The reader of a shard; called by one thread at a time."""
        reader = self._in_use.get(shard)
        if reader is not None:
            self._in_use.move_to_end(shard)
            return reader
        if shard not in self._known:
            self._known[shard] = self._open(shard)
        reader = self._in_use[shard] = copy.copy(self._known[shard])
        reader.use_map = self._stay_mapped
        if len(self._in_use) > MAX_OPEN_SHARDS:  # a batch that is being made has its own reference to the reader
            self._in_use.popitem(last=False)
        return reader

    def _open(self, shard: int) -> ShardReader:
        """Open a shard for the first time, and compare it with the configuration and the ledger."""
        path = self.videos.shards[shard]
        reader = ShardReader(path)
        if reader.recipe_sha256 != self._recipe_sha256:
            raise ShardError(
                path,
                "made with another recipe than this configuration's `preprocess` section",
                "use the configuration it was made with, or set another preprocess.store and run `make preprocess`",
            )
        for video in np.flatnonzero(self.videos.shard_of == shard).tolist():
            row = reader.row_of(self.videos.video_ids[video])
            stored = (int(reader.num_frames[row]), int(reader.crc32[row]))
            listed = (int(self.videos.num_frames[video]), int(self.videos.crc32[video]))
            if stored != listed:
                what = (
                    f"got {stored[0]} frames with CRC-32 {stored[1]:08x}, expected {listed[0]} with {listed[1]:08x} "
                    "from the ledger"
                )
                raise ShardError(path, what, "run `make manifests`", self.videos.video_ids[video])
            self._rows[video] = row
        return reader


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory in bytes that this process could still use, page cache included: the machine's or the cgroup's.

    In the cgroup, active pages of files count as free: pages of shards become active when a second epoch reads them.
    """
    with open("/proc/meminfo", encoding="ascii") as file:
        facts = dict(line.split(":") for line in file)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or `max`
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        pages = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used -= int(pages["inactive_file"]) + int(pages["active_file"])
        free = min(free, limit - used)
    return free
