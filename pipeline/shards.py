"""A shard: stored frames of some tens of videos in one HDF5 file, and what became of every video it was to hold.

    <store>/<split>-00012-of-00480.h5
      attributes        format_version, recipe (JSON), recipe_sha256, split, complete
      frames/<video_id> one contiguous uint8 dataset: (T, height, width, 3) RGB, or with codec jpeg T JPEGs end to end
      jpeg/<video_id>   (T + 1,) int64: where each JPEG begins in that blob
      index             table of the stored videos: video_id, label_id, num_frames, offset in the file, nbytes, crc32
      outcomes          table of every planned video: video_id, status, reason and what is known of the source

Frames are contiguous and unfiltered, so a reader takes their byte offsets from `index`, maps the file and never goes
through libhdf5 for them; any HDF5 tool can still open the file.  Same inputs and recipe, same bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import hdf5
from pipeline.encoding import Encoded, encode
from pipeline.hdf5 import ShardError
from pipeline.recipe import FORMAT_VERSION, Preprocess

# What a ledger learns of a video by decoding it; unknown numbers are 0, unknown texts empty.
OUTCOME_FIELDS: dict[str, str] = {
    "video_id": "text", "status": "text", "reason": "text", "codec": "text",
    "source_width": "<i8", "source_height": "<i8", "source_fps": "<f8", "source_frames": "<i8", "source_bytes": "<i8",
    "num_frames": "<i8", "fps": "<f8",
}  # fmt: skip
_INDEX_FIELDS = {
    "video_id": "text", "label_id": "<i4", "num_frames": "<i8", "offset": "<i8", "nbytes": "<i8", "crc32": "<u4",
}  # fmt: skip


class Outcome(NamedTuple):
    """What became of one planned video; the fields are the ledger's columns of the same names."""

    video_id: str
    status: str
    reason: str = ""
    codec: str = ""
    source_width: int = 0
    source_height: int = 0
    source_fps: float = 0.0
    source_frames: int = 0
    source_bytes: int = 0
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
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._settings = settings
        self._index: list[tuple] = []
        self._outcomes: list[Outcome] = []
        self._file = hdf5.create(self._temporary)
        # Frames go past libhdf5: its writes hold the interpreter's lock, and one that fails crashes the process later.
        self._fd = os.open(self._temporary, os.O_RDWR)
        self._file.create_group("frames", track_order=False)
        if settings.codec == "jpeg":
            self._file.create_group("jpeg", track_order=False)
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file.attrs["recipe"] = settings.to_json()
        self._file.attrs["recipe_sha256"] = settings.fingerprint()
        self._file.attrs["split"] = split
        self._file.attrs["complete"] = False

    def add(self, outcome: Outcome, label_id: int = -1, frames: NDArray[np.uint8] | None = None) -> None:
        """Note a video's outcome, and store its frames (T, height, width, 3) when it has status ok."""
        self.add_encoded(outcome, label_id, None if frames is None else encode(frames, self._settings))

    def add_encoded(self, outcome: Outcome, label_id: int, encoded: Encoded | None) -> None:
        """As `add`, of a video whose bytes are made already."""
        self._outcomes.append(outcome)
        if encoded is None:
            return
        offset = self._store("frames", outcome.video_id, encoded.data)
        if encoded.starts is not None:
            self._store("jpeg", outcome.video_id, encoded.starts)
        row = (outcome.video_id, label_id, encoded.num_frames, offset, encoded.data.nbytes, encoded.crc32)
        self._index.append(row)

    def _store(self, group: str, name: str, data: NDArray) -> int:
        """Write a contiguous dataset; returns its byte offset in the file."""
        offset = hdf5.reserve(self._file[group], name, data.shape, data.dtype)
        rest = memoryview(data.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        place = offset
        while rest:
            written = os.pwrite(self._fd, rest, place)
            rest, place = rest[written:], place + written
        return offset

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
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._temporary.unlink(missing_ok=True)
        if self._file.id.valid:
            hdf5.abandon(self._file)

    def _publish(self) -> None:
        tables = {
            "index": hdf5.table(self._index, _INDEX_FIELDS),
            "outcomes": hdf5.table(self._outcomes, OUTCOME_FIELDS),
        }
        room = sum(table.nbytes for table in tables.values()) + 4096 * len(self._outcomes) + (1 << 20)
        os.posix_fallocate(self._fd, 0, os.fstat(self._fd).st_size + room)  # so that libhdf5 finds the disk not full
        for name, table in tables.items():
            self._file.create_dataset(name, data=table, track_times=False)
        self._file.attrs["complete"] = True
        self._file.close()
        os.ftruncate(self._fd, hdf5.end(self._fd))
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        ShardReader(self._temporary).close()  # what cannot be opened again is not published
        os.replace(self._temporary, self.path)
        sync(self.path.parent)


class ShardReader:
    """A finished shard; its frames are mapped into memory when the first is read.  Threads may share one.

    Args:
        path: the shard.

    Attributes:
        video_ids: the stored videos.
        label_ids: (V,) int32.
        num_frames: (V,) int64.
        recipe_sha256: fingerprint of the recipe it was made by.

    Raises:
        ShardError: it is missing, truncated, unfinished, of another format, or links to other files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with hdf5.open_finished(path) as file:
            recipe = json.loads(str(file.attrs["recipe"]))
            self.recipe_sha256 = str(file.attrs["recipe_sha256"])
            index = hdf5.read_table(file, "index")
            self._jpeg = recipe["codec"] == "jpeg"
            self._starts = {name: hdf5.own(file, f"jpeg/{name}")[:] for name in index["video_id"] if self._jpeg}
            self.video_ids: list[str] = index["video_id"].tolist()
            self.label_ids = index["label_id"].to_numpy(np.int32)
            self.num_frames = index["num_frames"].to_numpy(np.int64)
            self._offsets = index["offset"].to_numpy(np.int64)
            self._nbytes = index["nbytes"].to_numpy(np.int64)
            self._crc32 = index["crc32"].to_numpy(np.int64)
            self._rows = {video_id: row for row, video_id in enumerate(self.video_ids)}
            self._frame_shape = (int(recipe["height"]), int(recipe["width"]), 3)
        self._map: np.memmap | None = None
        self._check()

    def _check(self) -> None:
        """Whether what `index` says can be: reading goes by it alone."""
        if (self._offsets < 0).any() or (self._offsets + self._nbytes > self.path.stat().st_size).any():
            raise ShardError(
                f"{self.path}: truncated: its frames end after the file does; run `make verify ARGS=--repair`"
            )
        for row, video_id in enumerate(self.video_ids):
            if self._jpeg:
                starts = self._starts[video_id]
                sound = len(starts) == self.num_frames[row] + 1 and starts[-1] == self._nbytes[row]
                sound = sound and starts[0] == 0 and bool((np.diff(starts) > 0).all())
            else:
                sound = self._nbytes[row] == self.num_frames[row] * int(np.prod(self._frame_shape))
            if not sound:
                raise ShardError(
                    f"{self.path}: {video_id}: {self.num_frames[row]} frames do not fit its {self._nbytes[row]} bytes; "
                    "run `make verify ARGS=--repair`"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # a process of its own maps the file itself

    def row_of(self, video_id: str) -> int:
        """The row of a stored video.

        Raises:
            ShardError: it is not in this shard.
        """
        row = self._rows.get(video_id)
        if row is None:
            raise ShardError(f"{self.path}: has no video {video_id}, though its ledger says so; run `make manifests`")
        return row

    def read_clip(
        self,
        row: int,
        frame_indices: NDArray[np.int64],
        out: NDArray[np.uint8],
        top: int = 0,
        left: int = 0,
        flip: bool = False,
    ) -> None:
        """Copy a crop of chosen frames of a video straight into `out`.

        Args:
            row: of the video.
            frame_indices: (T,) each in 0..num_frames-1.
            out: (T, h, w, 3) uint8, filled.
            top: first row of pixels.
            left: first column of pixels.
            flip: mirror left and right.
        """
        height, width = out.shape[1:3]
        if len(frame_indices) and not 0 <= frame_indices.min() <= frame_indices.max() < self.num_frames[row]:
            raise IndexError(f"{self.video_ids[row]}: frames {frame_indices} of {self.num_frames[row]}")
        across = slice(left + width - 1, left - 1 if left else None, -1) if flip else slice(left, left + width)
        down = slice(top, top + height)
        if self._jpeg:
            for slot, frame in enumerate(frame_indices):
                out[slot] = self._decode_jpeg(row, int(frame))[down, across]
            return
        frames = self._frames(row)
        for first, count, step in _runs(frame_indices):
            start = int(frame_indices[first])
            out[first : first + count] = frames[start : start + (count - 1) * step + 1 : step, down, across]

    def frames(self, row: int) -> NDArray[np.uint8]:
        """All frames of a video, (T, height, width, 3); a view of the mapped file with codec raw."""
        if not self._jpeg:
            return self._frames(row)
        return np.stack([self._decode_jpeg(row, frame) for frame in range(int(self.num_frames[row]))])

    def stored(self, row: int) -> NDArray[np.uint8]:
        """The bytes of a video as they are in the file."""
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        start = int(self._offsets[row])
        return self._map[start : start + int(self._nbytes[row])]

    def shape(self, row: int) -> tuple[int, ...]:
        """Of the dataset that holds a video."""
        return (int(self._nbytes[row]),) if self._jpeg else (int(self.num_frames[row]), *self._frame_shape)

    def offset(self, row: int) -> int:
        """Where in the file a video begins."""
        return int(self._offsets[row])

    def encoded(self, row: int) -> Encoded:
        """A video as `ShardWriter.add_encoded` takes it."""
        data = self.stored(row) if self._jpeg else self._frames(row)
        starts = self._starts[self.video_ids[row]] if self._jpeg else None
        return Encoded(data, starts, int(self.num_frames[row]), int(self._crc32[row]))

    def verify(self, row: int) -> None:
        """Compare a video's bytes with its CRC-32.

        Raises:
            ShardError: they differ.
        """
        found = zlib.crc32(self.stored(row).data)
        if found != self._crc32[row]:
            raise ShardError(
                f"{self.path}: {self.video_ids[row]}: damaged: CRC-32 is {found:08x}, was {self._crc32[row]:08x}; "
                "run `make verify ARGS=--repair`"
            )

    def close(self) -> None:
        """Let go of the map; arrays that still view it stay valid."""
        self._map = None

    def _frames(self, row: int) -> NDArray[np.uint8]:
        return self.stored(row).reshape(int(self.num_frames[row]), *self._frame_shape)

    def _decode_jpeg(self, row: int, frame: int) -> NDArray[np.uint8]:
        starts = self._starts[self.video_ids[row]]
        picture = cv2.imdecode(self.stored(row)[starts[frame] : starts[frame + 1]], cv2.IMREAD_COLOR)
        if picture is None:
            raise ShardError(
                f"{self.path}: {self.video_ids[row]}: frame {frame} is no JPEG; run `make verify ARGS=--repair`"
            )
        return picture[..., ::-1].astype(np.uint8, copy=False)


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


def _runs(indices: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Frame indices as runs of equal positive stride: (place of the first, how many, stride)."""
    steps = np.diff(indices)
    place = 0
    while place < len(indices):
        step = int(steps[place]) if place < len(steps) else 1
        same = steps[place:] == step if step > 0 else np.zeros(0, bool)
        count = 1 + (len(same) if same.all() else int(same.argmin()))
        yield place, count, max(step, 1)
        place += count
