"""A shard: stored frames of some tens of videos in one HDF5 file, and what became of every video it was to hold.

    <store>/<split>-00012-of-00480.h5
      attributes        format_version, recipe (JSON), recipe_sha256, split, complete
      frames/<video_id> one contiguous uint8 dataset: (T, height, width, 3) RGB, or with codec jpeg T JPEGs end to end
      jpeg/<video_id>   (T + 1,) int64: where each JPEG begins in that blob
      index             table of the stored videos: video_id, label_id, num_frames, offset in the file, nbytes, crc32
      outcomes          table of every planned video: video_id, status, reason and what is known of the source

Frames are contiguous and unfiltered, so a reader takes their byte offsets from `index`, maps the file and never goes
through libhdf5 for them; any HDF5 tool can still open the file.  Same inputs and recipe, same bytes.  The only module
that imports h5py.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.encoding import Encoded, encode
from pipeline.recipe import FORMAT_VERSION, Preprocess
from pipeline.settings import UserError

# What a ledger learns of a video by decoding it; unknown numbers are 0, unknown texts empty.
OUTCOME_FIELDS: dict[str, str] = {
    "video_id": "text", "status": "text", "reason": "text", "codec": "text",
    "source_width": "<i8", "source_height": "<i8", "source_fps": "<f8", "source_frames": "<i8", "source_bytes": "<i8",
    "num_frames": "<i8", "fps": "<f8",
}  # fmt: skip
_INDEX_FIELDS = {
    "video_id": "text", "label_id": "<i4", "num_frames": "<i8", "offset": "<i8", "nbytes": "<i8", "crc32": "<u4",
}  # fmt: skip


class ShardError(UserError):
    """A shard that is missing, damaged, unfinished, or not ours to read."""


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
        self._file = h5py.File(self._temporary, "w", libver="earliest", locking=False)
        # Frames go past libhdf5: its writes hold the interpreter's lock, and one that fails crashes the process later.
        self._fd = os.open(self._temporary, os.O_WRONLY)
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
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        creation.set_obj_track_times(False)
        kind, space = h5py.h5t.py_create(data.dtype), h5py.h5s.create_simple(data.shape)
        offset = h5py.h5d.create(self._file[group].id, name.encode(), kind, space, creation).get_offset()
        assert offset is not None, "an empty dataset has no place in the file"
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
            # On a full disk libhdf5 could not write what it still holds, and would crash when the program ends.
            sink = os.open(os.devnull, os.O_RDWR)
            os.dup2(sink, self._file.id.get_vfd_handle())
            os.close(sink)
            self._file.close()

    def _publish(self) -> None:
        tables = {"index": _table(self._index, _INDEX_FIELDS), "outcomes": _table(self._outcomes, OUTCOME_FIELDS)}
        room = sum(table.nbytes for table in tables.values()) + 4096 * len(self._outcomes) + (1 << 20)
        os.posix_fallocate(self._fd, 0, os.fstat(self._fd).st_size + room)  # so that libhdf5 finds the disk not full
        for name, table in tables.items():
            self._file.create_dataset(name, data=table, track_times=False)
        self._file.attrs["complete"] = True
        self._file.close()  # which also cuts off the room that is left
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        ShardReader(self._temporary).close()  # what cannot be opened again is not published
        os.replace(self._temporary, self.path)
        sync(self.path.parent)


class ShardReader:
    """A finished shard, mapped into memory; safe to share between threads.

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
        with _open(path) as file:
            recipe = json.loads(str(file.attrs["recipe"]))
            self.recipe_sha256 = str(file.attrs["recipe_sha256"])
            index = _read_table(file, "index")
            self._starts = {
                video_id: file["jpeg"][video_id][:] for video_id in index["video_id"] if recipe["codec"] == "jpeg"
            }
        self.video_ids: list[str] = index["video_id"].tolist()
        self.label_ids = index["label_id"].to_numpy(np.int32)
        self.num_frames = index["num_frames"].to_numpy(np.int64)
        self._offsets = index["offset"].to_numpy(np.int64)
        self._nbytes = index["nbytes"].to_numpy(np.int64)
        self._crc32 = index["crc32"].to_numpy(np.int64)
        self._rows = {video_id: row for row, video_id in enumerate(self.video_ids)}
        self._frame_shape = (int(recipe["height"]), int(recipe["width"]), 3)
        self._jpeg = recipe["codec"] == "jpeg"
        self._map = np.memmap(path, np.uint8, "r")
        if len(index) and int((self._offsets + self._nbytes).max()) > len(self._map):
            raise ShardError(f"{path}: truncated: its frames end after the file does; run `make verify ARGS=--repair`")

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
        across = slice(left + width - 1, left - 1 if left else None, -1) if flip else slice(left, left + width)
        down = slice(top, top + height)
        if self._jpeg:
            for slot, frame in enumerate(frame_indices):
                out[slot] = self._decode_jpeg(row, int(frame))[down, across]
            return
        frames = self._frames(row)
        step = int(frame_indices[1] - frame_indices[0]) if len(frame_indices) > 1 else 1
        if step > 0 and (np.diff(frame_indices) == step).all():
            first = int(frame_indices[0])
            out[...] = frames[first : int(frame_indices[-1]) + 1 : step, down, across]
            return
        for slot, frame in enumerate(frame_indices):
            out[slot] = frames[int(frame), down, across]

    def frames(self, row: int) -> NDArray[np.uint8]:
        """All frames of a video, (T, height, width, 3); a view of the mapped file with codec raw."""
        if not self._jpeg:
            return self._frames(row)
        return np.stack([self._decode_jpeg(row, frame) for frame in range(int(self.num_frames[row]))])

    def stored(self, row: int) -> NDArray[np.uint8]:
        """The bytes of a video as they are in the file."""
        start = int(self._offsets[row])
        return self._map[start : start + int(self._nbytes[row])]

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
        del self._map

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


def read_attributes(path: Path) -> dict[str, Any]:
    """A shard's root attributes.

    Raises:
        ShardError: as ShardReader.
    """
    with _open(path) as file:
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}


def read_outcomes(path: Path) -> pd.DataFrame:
    """What became of every video the shard was planned to hold, in the ledger's columns.

    Raises:
        ShardError: as ShardReader.
    """
    with _open(path) as file:
        outcomes, index = _read_table(file, "outcomes"), _read_table(file, "index")
    outcomes["shard"] = np.where(outcomes["status"] == "ok", path.name, "")
    places = index.set_index("video_id")[["offset", "nbytes", "crc32"]].reindex(outcomes["video_id"]).fillna(0)
    for name in ("offset", "nbytes", "crc32"):
        outcomes[name] = places[name].to_numpy(np.int64)
    return outcomes


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise ShardError(f"{path}: no such shard; run `make preprocess`")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ShardError(f"{path}: not a whole HDF5 file ({error}); run `make verify ARGS=--repair`") from None
    try:
        version, complete = file.attrs.get("format_version"), file.attrs.get("complete", False)
        if version != FORMAT_VERSION:
            raise ShardError(f"{path}: shard format {version}, this program reads {FORMAT_VERSION}")
        if not complete:
            raise ShardError(f"{path}: unfinished; run `make preprocess`")
    except BaseException:
        file.close()
        raise
    return file


def _table(rows: Sequence[tuple], fields: dict[str, str]) -> NDArray:
    """Rows as a structured array; texts in fixed-length UTF-8, as long as the longest."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
    encoded = [
        np.array([text.encode() for text in column], dtype=f"S{max([1, *(len(text.encode()) for text in column)])}")
        if kind == "text"
        else np.array(column, dtype=kind)
        for column, kind in zip(columns, fields.values(), strict=True)
    ]
    table = np.empty(len(rows), [(name, array.dtype) for name, array in zip(fields, encoded, strict=True)])
    for name, array in zip(fields, encoded, strict=True):
        table[name] = array
    return table


def _read_table(file: h5py.File, name: str) -> pd.DataFrame:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ShardError(f"{file.filename}: has no table {name} of its own; run `make verify ARGS=--repair`")
    table = file[name][:]
    return pd.DataFrame(
        {
            field: np.char.decode(table[field], "utf-8") if table[field].dtype.kind == "S" else table[field]
            for field in table.dtype.names
        }
    )
