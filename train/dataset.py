"""Batches of clips out of shards, through MindSpore's GeneratorDataset.

One item of the GeneratorDataset is one whole batch, copied by a thread straight from the mapped shards into the
batch's array: numpy releases the GIL there, and one item a batch moves several times more clips than one item a
sample (measured).  Which frames, crop and flip a sample gets is a function of (seed, epoch, sample number) alone, so
neither the number of workers nor a restart changes what is trained on.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore.dataset as ms_dataset
import numpy as np
from numpy.typing import NDArray

from pipeline import ledger
from pipeline.recipe import Preprocess
from pipeline.settings import UserError
from pipeline.shards import ShardReader
from train.augment import HostTransform
from train.clip_sampling import clip_indices
from train.config import Dataset, Loader

# Open shards a process keeps mapped: far below the usual limit of 1,024 descriptors, enough for every shard in use.
MAX_OPEN_SHARDS = 256
PREFETCHED_BATCHES = 4

Batch = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]


@dataclass(frozen=True)
class Videos:
    """The usable videos of one split, in the ledger's order.

    Attributes:
        video_ids: key of each video.
        label_ids: (V,) int32, -1 where unlabelled.
        num_frames: (V,) int64, stored frames.
        shard_of: (V,) int32, index into `shards`.
        shards: paths of the shards that hold them.
        class_names: label of each label_id.
        identity: which subset of which split this is, `k400-val@<hash> (19,404 of 19,906)`.
    """

    video_ids: list[str]
    label_ids: NDArray[np.int32]
    num_frames: NDArray[np.int64]
    shard_of: NDArray[np.int32]
    shards: list[Path]
    class_names: list[str]
    identity: str


def read_videos(settings: Preprocess, split: str) -> Videos:
    """The stored videos of a split, from its ledger.

    Raises:
        UserError: there is no ledger, nothing of it is stored, or a shard it names is missing.
    """
    path = ledger.ledger_path(settings, split)
    if not path.is_file():
        raise UserError(f"{path}: no such ledger; run `make manifests preprocess` first")
    table = ledger.read(path)
    stored = table[(table["status"] == "ok") & (table["shard"] != "")]
    if stored.empty:
        raise UserError(f"{path}: none of its {len(table):,} videos is stored; run `make preprocess` first")
    names, shard_of = np.unique(stored["shard"].to_numpy(str), return_inverse=True)
    shards = [Path(settings.store) / str(name) for name in names]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]}: named by {path}, but not there ({len(missing)} such shards); run `make preprocess`"
        )
    return Videos(
        video_ids=stored["video_id"].tolist(),
        label_ids=stored["label_id"].to_numpy(np.int32),
        num_frames=stored["num_frames"].to_numpy(np.int64),
        shard_of=shard_of.astype(np.int32),
        shards=shards,
        class_names=ledger.class_names(table),
        identity=ledger.identity(settings.dataset, table),
    )


class ClipBatches:
    """The batches of one epoch, by number: a random-access source for GeneratorDataset.

    A sample is one clip of one video: sample number = video * num_clips + clip.  Training shuffles the samples and
    leaves out the few that do not fill a batch (others every epoch); evaluation takes all of them in order and fills
    up the last batch with sample -1, so that every batch has one shape and none is lost.

    Args:
        videos: what to draw from.
        loader: the `data_loader.train` or `data_loader.eval` section.
        settings: the recipe that the shards must have.
        seed: of order and augmentation.
        drop_remainder: leave out the last incomplete batch instead of filling it up.

    Attributes:
        failure: what went wrong in a worker, for the consumer to raise; MindSpore would wrap it in a page of text.
    """

    def __init__(
        self, videos: Videos, loader: Loader, settings: Preprocess, *, seed: int, drop_remainder: bool
    ) -> None:
        self.videos = videos
        self.options: Dataset = loader.dataset
        self.stored = (settings.height, settings.width)
        self.transform = HostTransform.of(loader.map, self.stored)
        self.failure: Exception | None = None
        self._recipe_sha256 = settings.fingerprint()
        self._seed = seed
        self._epoch = 0
        self._start = 0
        self.num_samples = len(videos.video_ids) * self.options.num_clips
        full, rest = divmod(self.num_samples, self.options.batch_size)
        self.num_batches = full + (rest > 0 and not drop_remainder)
        if not self.num_batches:
            raise UserError(
                f"data_loader.train.dataset.batch_size: got {self.options.batch_size}, but {videos.identity} has "
                f"only {self.num_samples} clips an epoch"
            )
        self._order = np.arange(self.num_samples)
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (0-based), and the batch to begin with when it is resumed in the middle."""
        self._epoch, self._start = epoch, start
        if self.options.shuffle:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self.num_samples)

    def __len__(self) -> int:
        return self.num_batches - self._start

    def __getitem__(self, item: int) -> Batch:
        """Batch `item`: clips (N, T, H, W, 3) uint8, labels (N,) int32, sample numbers (N,) int64."""
        try:
            return self._batch(self._start + int(item))
        except Exception as error:
            self.failure = error
            raise

    def _batch(self, number: int) -> Batch:
        size = self.options.batch_size
        chosen = self._order[number * size : (number + 1) * size]
        samples = np.full(size, -1, np.int64)
        samples[: len(chosen)] = chosen
        labels = np.full(size, -1, np.int32)
        clips = np.zeros((size, self.options.seq, *self.transform.crop, 3), np.uint8)
        for slot, sample in enumerate(chosen):
            labels[slot] = self._copy(int(sample), clips[slot])
        return clips, labels, samples

    def _copy(self, sample: int, out: NDArray[np.uint8]) -> int:
        """Copy the clip of a sample into `out`, (T, H, W, 3); returns its label_id."""
        video, clip = divmod(sample, self.options.num_clips)
        rng = np.random.default_rng([self._seed, self._epoch, sample])
        indices = clip_indices(
            self.options.seq_mode,
            num_frames=int(self.videos.num_frames[video]),
            clip_len=self.options.seq,
            interval=self.options.frame_interval,
            rng=rng,
            clip=clip,
            num_clips=self.options.num_clips,
        )
        top, left, flip = self.transform.draw(self.stored, rng)
        reader = self._reader(int(self.videos.shard_of[video]))
        reader.read_clip(reader.row_of(self.videos.video_ids[video]), indices, out, top=top, left=left, flip=flip)
        return int(self.videos.label_ids[video])

    def _reader(self, shard: int) -> ShardReader:
        with self._lock:
            reader = self._readers.get(shard)
            if reader is None:
                reader = ShardReader(self.videos.shards[shard])
                if reader.recipe_sha256 != self._recipe_sha256:
                    raise UserError(
                        f"{self.videos.shards[shard]}: made by another recipe than this configuration's `preprocess` "
                        "section; use its configuration, or another preprocess.store and run `make preprocess`"
                    )
                self._readers[shard] = reader
                if len(self._readers) > MAX_OPEN_SHARDS:  # a batch in flight keeps its own reference to the map
                    self._readers.popitem(last=False)
            else:
                self._readers.move_to_end(shard)
            return reader


def iterate(source: ClipBatches, epoch: int, start: int = 0) -> Iterator[Batch]:
    """The batches of one epoch, made ahead by `num_parallel_workers` threads.

    Raises:
        UserError: what the source met: a shard missing, damaged, or of another recipe.
    """
    source.set_epoch(epoch, start)
    if not len(source):
        return
    ms_dataset.config.set_prefetch_size(PREFETCHED_BATCHES)
    dataset = ms_dataset.GeneratorDataset(
        source,
        column_names=["clips", "labels", "samples"],
        num_parallel_workers=min(source.options.num_parallel_workers, os.cpu_count() or 1),  # MindSpore allows no more
        python_multiprocessing=False,
        shuffle=False,
    )
    batches = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True, do_copy=False)
    try:
        yield from (tuple(batch) for batch in batches)
    except RuntimeError:
        if source.failure is not None:
            raise source.failure from None
        raise
