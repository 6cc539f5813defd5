"""A shard: stored frames of some tens of videos in one HDF5 file, and what became of every video it was to hold.

What is in it, and how it is written; `pipeline/shard_reader.py` reads the frames.

    <store>/<split>-00012-of-00480.h5
      attributes        format_version, recipe (JSON), recipe_sha256, split, complete
      frames/<video_id> one contiguous uint8 dataset: (T, height, width, 3) RGB, or with codec jpeg T JPEGs end to end
      jpeg/<video_id>   (T + 1,) int64: where each JPEG begins in that blob
      index             table of the stored videos: video_id, num_frames, offset in the file, nbytes, crc32,
                        and with codec jpeg the offset of jpeg/<video_id> (raw: 0)
      times_s           (sum of T,) float32: when each frame is shown, in seconds since its video's first frame;
                        the videos one after another, as in `index`, which has the offset of each; of a video whose
                        own times do not rise, those of its mean rate
      outcomes          table of every planned video: video_id, status, reason and what is known of the source
      (after HDF5's)    the seal, a CRC-32 of everything but the frames: seal.py

Labels are in the ledgers only: label files change, and terabytes of frames need not be written again for it.

Frames are contiguous and unfiltered, so a reader takes their byte offsets from `index`, maps the file and never goes
through libhdf5 for them; any HDF5 tool can still open the file.  Same inputs and recipe, same bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import hdf5
from pipeline.common.errors import ShardError as ShardError  # what reading a shard raises
from pipeline.common.recipe import FORMAT_VERSION, Preprocess
from pipeline.direct import DirectFile
from pipeline.encoding import Encoded, encode
from pipeline.frames import steady_times
from pipeline.seal import write
from pipeline.shard_reader import ShardReader

# What a ledger learns of a video by decoding it; unknown numbers are 0, unknown texts empty.
OUTCOME_FIELDS: dict[str, str] = {
    "video_id": "text", "status": "text", "reason": "text", "codec": "text",
    "source_width": "<i8", "source_height": "<i8", "source_bit_depth": "<i8", "source_fps": "<f8",
    "source_frames": "<i8", "source_bytes": "<i8", "source_crc32": "<i8", "num_frames": "<i8", "fps": "<f8",
}  # fmt: skip
_INDEX_FIELDS = {
    "video_id": "text", "num_frames": "<i8", "offset": "<i8", "nbytes": "<i8", "crc32": "<u4",
    "starts": "<i8", "times_s": "<i8",
}  # fmt: skip


class Outcome(NamedTuple):
    """What became of one planned video; the fields are the ledger's columns of the same names."""

    video_id: str
    status: str
    reason: str = ""
    codec: str = ""
    source_width: int = 0
    source_height: int = 0
    source_bit_depth: int = 0
    source_fps: float = 0.0
    source_frames: int = 0
    source_bytes: int = 0
    source_crc32: int = 0
    num_frames: int = 0
    fps: float = 0.0


def shard_name(split: str, number: int, count: int) -> str:
    """`train-00012-of-00480.h5`."""
    return f"{split}-{number:05d}-of-{count:05d}.h5"


class ShardWriter:
    """Writes one shard under a temporary name; it appears under its own name only whole and checked.

    As a context manager: leaving it with an exception removes the temporary file.

    Args:
        path: the shard's final path.
        settings: the recipe.
        split: train, val or test.
    """

    def __init__(self, path: Path, settings: Preprocess, split: str) -> None:
        self.path = path
        # A cluster's worker may still be at a shard of a run that has ended, and that the next one writes anew.
        self._temporary = path.with_name(
            f".{path.name.removesuffix('.h5')}.{socket.gethostname()}-{os.getpid()}.h5.tmp"
        )
        self._settings = settings
        self._index: list[tuple] = []
        self._times: list[NDArray[np.float32]] = []
        self._outcomes: list[Outcome] = []
        self._file = hdf5.create(self._temporary)
        # Frames go past libhdf5: its writes hold the interpreter's lock, and one that fails crashes the process later.
        self._raw = DirectFile(self._temporary)
        self._file.create_group("frames", track_order=False)
        if settings.codec == "jpeg":
            self._file.create_group("jpeg", track_order=False)
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file.attrs["recipe"] = settings.to_json()
        self._file.attrs["recipe_sha256"] = settings.fingerprint()
        self._file.attrs["split"] = split
        self._file.attrs["complete"] = False

    def add(self, outcome: Outcome, frames: NDArray[np.uint8] | None = None) -> None:
        """Note a video's outcome, and store its frames (T, height, width, 3), `fps` of them a second, if it is ok."""
        encoded = None
        if frames is not None:
            encoded = encode(frames, steady_times(np.arange(len(frames)), outcome.fps), self._settings)
        self.add_encoded(outcome, encoded)

    def add_encoded(self, outcome: Outcome, encoded: Encoded | None) -> None:
        """As `add`, of a video whose bytes are made already."""
        self._outcomes.append(outcome)
        if encoded is None:
            return
        offset = self._store("frames", outcome.video_id, encoded.data)
        starts = 0 if encoded.starts is None else self._store("jpeg", outcome.video_id, encoded.starts)
        row = (outcome.video_id, encoded.num_frames, offset, encoded.data.nbytes, encoded.crc32, starts)
        self._index.append(row)
        self._times.append(encoded.times_s.copy())  # its memory is the next video's

    def _store(self, group: str, name: str, data: NDArray) -> int:
        """Write a contiguous dataset; returns its byte offset in the file."""
        offset = hdf5.reserve(self._file[group], name, data.shape, data.dtype)
        self._raw.write(data, offset)
        return offset

    def _store_times(self) -> list[int]:
        """Write when all frames are shown; returns the byte offset of each video's."""
        if not self._times:
            self._file.create_dataset("times_s", data=np.empty(0, np.float32), track_times=False)
            return []
        offset = self._store("/", "times_s", np.concatenate(self._times))
        before = np.cumsum([0, *(times_s.nbytes for times_s in self._times[:-1])])
        return (offset + before).tolist()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self._publish()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Drop what was written."""
        self._raw.close()
        self._temporary.unlink(missing_ok=True)
        if self._file.id.valid:
            hdf5.abandon(self._file)

    def _publish(self) -> None:
        times = self._store_times()
        tables = {
            "index": hdf5.table([(*row, time) for row, time in zip(self._index, times, strict=True)], _INDEX_FIELDS),
            "outcomes": hdf5.table(self._outcomes, OUTCOME_FIELDS),
        }
        room = sum(table.nbytes for table in tables.values()) + 4096 * len(self._outcomes) + (1 << 20)
        fd = self._raw.fd
        os.posix_fallocate(fd, 0, os.fstat(fd).st_size + room)  # so that libhdf5 finds the disk not full
        for name, table in tables.items():
            self._file.create_dataset(name, data=table, track_times=False)
        self._file.attrs["complete"] = True
        self._file.close()
        os.ftruncate(fd, hdf5.end(fd))
        write(fd, [(offset, nbytes) for _, _, offset, nbytes, _, _ in self._index])
        os.fsync(fd)
        self._raw.close()
        ShardReader(self._temporary).close()  # what cannot be opened again is not published
        os.replace(self._temporary, self.path)
        sync(self.path.parent)


class Account(NamedTuple):
    """What a shard says of itself, without its frames.

    Attributes:
        recipe: as JSON.
        recipe_sha256: its fingerprint.
        split: train, val or test.
        outcomes: `shard`, `offset`, `nbytes`, `crc32` and the fields of Outcome, each an array (V,), one entry for
            every planned video.
    """

    recipe: str
    recipe_sha256: str
    split: str
    outcomes: dict[str, NDArray]


def read_account(path: Path) -> Account:
    """Open a shard once, and read all that ledgers and plans need of it.

    Raises:
        ShardError: as ShardReader.
    """
    with hdf5.open_finished(path) as file:
        recipe, sha256, split = (str(file.attrs[name]) for name in ("recipe", "recipe_sha256", "split"))
        outcomes, index = hdf5.read_columns(file, "outcomes"), hdf5.read_columns(file, "index")
        outcomes["shard"] = np.where(outcomes["status"] == "ok", path.name, "").astype(object)
        rows = {video_id: row for row, video_id in enumerate(index["video_id"])}
        # A video that is not stored takes the zero appended to each column.
        places = np.array([rows.get(video_id, -1) for video_id in outcomes["video_id"]], np.int64)
        for name in ("offset", "nbytes", "crc32"):
            outcomes[name] = np.append(index[name].astype(np.int64), 0)[places]
    return Account(recipe, sha256, split, outcomes)


def outcomes_table(accounts: Iterable[Account]) -> pd.DataFrame:
    """What became of every video that some shards were planned to hold, in the ledger's columns."""
    columns: dict[str, list[NDArray]] = {}
    for account in accounts:
        for name, values in account.outcomes.items():
            columns.setdefault(name, []).append(values)
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def read_outcomes(*paths: Path) -> pd.DataFrame:
    """As `outcomes_table`, of these shards.

    Raises:
        ShardError: as ShardReader.
    """
    return outcomes_table(map(read_account, paths))


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
