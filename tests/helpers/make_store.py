"""A small store made without videos: ledgers and shards whose pixels hold the numbers of frame and video."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.outcome import Outcome
from pipeline.common.recipe import FORMAT_VERSION, Preprocess
from pipeline.decoding.resample import steady_times
from pipeline.execution.plan import plan_shards
from pipeline.ledger.schema import COLUMNS
from pipeline.ledger.table import blank_rows, fill_ledger, ledger_path, write_ledger
from pipeline.shards import checksum
from pipeline.shards.encoding import encode
from pipeline.shards.libhdf5 import end
from pipeline.shards.store import open_shard, outcomes_table
from pipeline.shards.writer import ShardWriter

LABELS = ("clapping", "jumping", "running")


def settings_for(folder: Path, **changes: object) -> Preprocess:
    """A recipe of 16 x 20 frames with all its paths in `folder`."""
    paths = {"data_root": f"{folder}/data", "manifests": f"{folder}/manifests", "store": f"{folder}/store"}
    options = {"dataset": "tiny", "height": 16, "width": 20, "videos_per_shard": 4, **paths, **changes}
    return Preprocess(**options)  # type: ignore[arg-type]


def frames_of(number: int, num_frames: int, settings: Preprocess) -> NDArray[np.uint8]:
    """(T, height, width, 3): row, column and (video, frame) in the three channels, smooth enough for JPEG."""
    frames = np.empty((num_frames, settings.height, settings.width, 3), np.uint8)
    frames[..., 0] = np.arange(settings.height)[:, None] * 8
    frames[..., 1] = np.arange(settings.width) * 8
    frames[..., 2] = ((7 * number + np.arange(num_frames)) % 256)[:, None, None]
    return frames


def make_ledger(num_videos: int, split: str, bad: tuple[int, ...] = ()) -> pd.DataFrame:
    """A ledger of pending videos, label_id = number modulo 3; those in `bad` have the status missing."""
    table = pd.DataFrame({"youtube_id": [f"{split}{number:06d}xxxxx"[:11] for number in range(num_videos)]})
    numbers = np.arange(num_videos)
    table["time_start"], table["time_end"] = numbers, numbers + 10
    pairs = zip(table["youtube_id"], numbers, strict=True)
    table["video_id"] = [f"{youtube_id}_{number:06d}_{number + 10:06d}" for youtube_id, number in pairs]
    table["label_id"] = numbers % len(LABELS)
    table["label"] = [LABELS[number % len(LABELS)] for number in numbers]
    table["split"] = split
    table["path"] = [
        "" if number in bad else f"{split}/{video_id}.mp4" for number, video_id in enumerate(table["video_id"])
    ]
    learned = blank_rows(num_videos)
    learned["status"] = ["missing" if number in bad else "pending" for number in range(num_videos)]
    table = pd.concat([table, learned], axis=1)[list(COLUMNS)]
    return table.astype(COLUMNS).sort_values("video_id", ignore_index=True)


def add_frames(writer: ShardWriter, outcome: Outcome, frames: NDArray[np.uint8], settings: Preprocess) -> None:
    """Store frames (T, height, width, 3), all shown for the same time."""
    writer.add(outcome, encode(frames, steady_times(np.arange(len(frames)), outcome.fps), settings))


def make_split(
    settings: Preprocess, split: str, num_videos: int, bad: tuple[int, ...] = (), length: int = 12
) -> pd.DataFrame:
    """Write the shards and the ledger of a split; video number n has `length + n % 5` frames."""
    table = make_ledger(num_videos, split, bad)
    Path(settings.store).mkdir(parents=True, exist_ok=True)
    written = []
    for task in plan_shards(table, settings, split):
        with ShardWriter(task.path, settings, split) as writer:
            for video in task.videos:
                number = int(video.video_id.split("_")[-2])
                if not video.path:
                    writer.add(Outcome(video_id=video.video_id, status="missing"))
                    continue
                frames = frames_of(number, length + number % 5, settings)
                facts = {"codec": "h264", "source_width": 340, "source_height": 256, "source_fps": 30.0,
                         "source_frames": 2 * len(frames), "source_bytes": 1000}  # fmt: skip
                outcome = Outcome(video_id=video.video_id, status="ok", num_frames=len(frames), fps=15.0, **facts)
                add_frames(writer, outcome, frames, settings)
        written.append(task.path)
    filled = fill_ledger(table, outcomes_table(map(open_shard, written)))
    write_ledger(ledger_path(settings, split), filled)
    return filled


@contextlib.contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """A shard's HDF5 file to be changed; it is sealed again afterwards, so that only the change is detected."""
    with h5py.File(path, "r+") as file:
        yield file
    with open(path, "r+b") as raw:
        os.ftruncate(raw.fileno(), end(raw.fileno()))
        checksum.write(raw.fileno(), [])


def renumber(path: Path, version: int) -> None:
    """Seal a shard with another format version."""
    with mock.patch.object(checksum, "FORMAT_VERSION", version), edited(path):
        pass


def make_format_1(path: Path) -> None:
    """A shard as it was before seals existed."""
    with open(path, "r+b") as raw:
        os.ftruncate(raw.fileno(), end(raw.fileno()))
    path.write_bytes(path.read_bytes().replace(f'"format_version":{FORMAT_VERSION}'.encode(), b'"format_version":1'))
