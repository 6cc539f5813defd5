"""Reads a shard's frames: clips, whole videos, checksums.

The tables are read once; frames are then read from the mapped file.  format.py describes what is in a shard.
"""

from __future__ import annotations

import functools
import io
import math
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from isal import isal_zlib
from numpy.typing import NDArray

from pipeline.common.errors import REPAIR, ShardError
from pipeline.common.files import naming
from pipeline.shards.encoding import Encoded
from pipeline.shards.hdf5 import file_id, open_finished
from pipeline.shards.head import Head, read_head

MAX_FRAMES = 1 << 24
"""Frames of a stored video: 155 hours at 30 frames/s.  The table of a video's JPEGs is read whole when it is opened."""

_PART_BYTES = 1 << 20
_of_thread = threading.local()


class ShardReader:
    """A finished shard; its frames are mapped into memory when the first is read.  Threads may share one.

    Args:
        path: the shard.
        head: what an earlier opening of this file has read; None: the file is opened here.

    Attributes:
        use_map: copy raw clips of consecutive frames out of the map, as all other clips.  False: read them with preadv,
            which is one copy more, but cheaper than mapping pages for every clip (through GeneratorDataset, 119 us a
            clip, not 160).
        video_ids: the stored videos.
        num_frames: (V,) int64.
        crc32: (V,) int64, of the stored bytes.
        recipe_sha256: fingerprint of the recipe it was made by.

    Raises:
        ShardError: it is missing, corrupted, unfinished, of another format, or links to other files.
    """

    def __init__(self, path: Path, head: Head | None = None) -> None:
        self.path = path
        if head is None:
            with open_finished(path) as shard:
                head = read_head(shard)
        self._take(head)
        self.use_map = True
        self._map: tuple[mmap.mmap, NDArray[np.uint8]] | None = None
        self._file: io.FileIO | None = None
        self._check()
        self.close()

    def _take(self, head: Head) -> None:
        index = head.index
        self._file_id = head.file_id
        self.recipe_sha256 = head.recipe_sha256
        self.video_ids: list[str] = head.video_ids
        self.num_frames = index["num_frames"].astype(np.int64)
        self.crc32 = index["crc32"].astype(np.int64)
        self._offsets = index["offset"].astype(np.int64)
        self._nbytes = index["nbytes"].astype(np.int64)
        self._jpeg = head.jpeg
        # Where each video's table of JPEGs is: the tables of thousands of shards would take hundreds of MiB.
        self._tables = index["starts"].astype(np.int64)
        self._times = index["times_s"].astype(np.int64)
        self._rows = {video_id: row for row, video_id in enumerate(self.video_ids)}
        self._frame_shape = head.frame_shape
        self._frame_nbytes = math.prod(self._frame_shape)

    def _check(self) -> None:
        """Check that the index is possible: reading trusts it.

        Raises:
            ShardError: it is not.
        """
        size = self._file_id.nbytes
        numbers = np.concatenate([self._offsets, self._nbytes, self._tables, self._times, self.num_frames])
        if ((numbers < 0) | (numbers > size)).any():  # so that no sum below is too large for int64
            raise ShardError(self.path, "the shard is truncated: its frames end after the file does", REPAIR)
        if (self.num_frames > MAX_FRAMES).any():
            what = f"a video of {self.num_frames.max():,} frames, expected at most {MAX_FRAMES:,}"
            raise ShardError(self.path, what, REPAIR)
        tables_nbytes = 8 * (self.num_frames + 1) if self._jpeg else np.zeros_like(self.num_frames)
        begins = np.concatenate([self._offsets, self._tables, self._times])
        ends = begins + np.concatenate([self._nbytes, tables_nbytes, 4 * self.num_frames])
        if (ends > size).any():
            raise ShardError(self.path, "the shard is truncated: its frames end after the file does", REPAIR)
        order = np.lexsort((ends, begins))
        order = order[ends[order] > begins[order]]
        if (begins[order][1:] < ends[order][:-1]).any():
            raise ShardError(self.path, "the bytes of two videos overlap", REPAIR)
        for row, video_id in enumerate(self.video_ids):
            if self._jpeg:
                starts = self._starts(row)
                sound = len(starts) > 1 and starts[0] == 0 and starts[-1] == self._nbytes[row]
                sound = sound and bool((starts[1:] > starts[:-1]).all())
            else:
                sound = divmod(int(self._nbytes[row]), self._frame_nbytes) == (self.num_frames[row], 0)
            if not sound:
                what = f"{self.num_frames[row]} frames do not fit {self._nbytes[row]} bytes"
                raise ShardError(self.path, what, REPAIR, video_id)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_file": None}  # a copy, or another process, opens the file itself

    def row_of(self, video_id: str) -> int:
        """The row of a stored video.

        Raises:
            ShardError: it is not in this shard.
        """
        row = self._rows.get(video_id)
        if row is None:
            what = "the ledger names this shard for the video, but the shard does not contain it"
            raise ShardError(self.path, what, "run `make manifests`", video_id)
        return row

    def copy_clip(
        self, row: int, frames: Sequence[int], top: int, left: int, out: NDArray[np.uint8], *, flip: bool = False
    ) -> None:
        """Copy a crop of chosen frames of a video into a batch's memory.

        Args:
            row: of the video.
            frames: T indices, each in 0..num_frames-1; a `range` where they can be one, which is faster.
            top: first row of pixels.
            left: first column of pixels.
            out: (T, h, w, 3) uint8, C-contiguous, filled; h and w are the size of the crop.
            flip: mirror left and right.

        Raises:
            IndexError: a frame is not there, or the crop does not lie in it.
            ShardError: with codec jpeg, a frame is not a complete JPEG.
        """
        _, height, width, _ = out.shape
        step = frames.step if isinstance(frames, range) else 0
        lowest, highest = (frames[0], frames[-1]) if step > 0 else (min(frames), max(frames))
        if not 0 <= lowest <= highest < self.num_frames[row]:
            raise IndexError(f"{self.video_ids[row]}: frames {list(frames)} of {self.num_frames[row]}")
        if not (0 <= top <= self._frame_shape[0] - height and 0 <= left <= self._frame_shape[1] - width):
            raise IndexError(f"{height} x {width} pixels at {top}, {left} of frames of {self._frame_shape[:2]}")
        if step > 0 and not self._jpeg:
            # Rows of pixels as items of a dtype: numpy copies 112 of them in its inner loop instead of one, and the
            # clip in one call, in which it does not hold the interpreter's lock.
            shape, item, row_nbytes = (len(frames), height), _pixels(width), 3 * self._frame_shape[1]
            start = int(self._offsets[row]) + lowest * self._frame_nbytes + top * row_nbytes + 3 * left
            strides = (step * self._frame_nbytes, row_nbytes)
            if self._uses_preadv(frames):
                end = start + (highest - lowest) * self._frame_nbytes + (height - 1) * row_nbytes + 3 * width
                stored: NDArray[np.void] = np.ndarray(shape, item, self._read_bytes(start, end - start), 0, strides)
            else:
                stored = np.ndarray(shape, item, self._get_map()[0], start, strides)
            np.copyto(np.ndarray(shape, item, out), stored)
        else:
            bottom, right = top + height, left + width
            frame = functools.partial(self._decode_jpeg, row) if self._jpeg else self._frames(row).__getitem__
            cv2.vconcat([frame(each)[top:bottom, left:right] for each in frames], dst=out.reshape(-1, width, 3))
        if flip:  # in place, while the clip is in the cache
            pictures = out.reshape(-1, width, 3)
            cv2.flip(pictures, 1, dst=pictures)

    def read_ahead(self, row: int, frames: Sequence[int]) -> None:
        """Have the kernel read the frames of a clip from the disk, without waiting for them."""
        first, last = min(frames), max(frames)
        begin = int(self._offsets[row])
        if self._jpeg:
            starts = self._starts(row)
            begin, end = begin + int(starts[first]), begin + int(starts[last + 1])
        else:
            begin, end = begin + first * self._frame_nbytes, begin + (last + 1) * self._frame_nbytes
        if self._uses_preadv(frames):
            file = self._get_file()
            os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)
        else:
            page = begin - begin % mmap.PAGESIZE
            self._get_map()[0].madvise(mmap.MADV_WILLNEED, page, end - page)

    def frames(self, row: int) -> NDArray[np.uint8]:
        """All frames of a video, (T, height, width, 3); a view of the mapped file with codec raw."""
        if not self._jpeg:
            return self._frames(row)
        return np.stack([self._decode_jpeg(row, frame) for frame in range(int(self.num_frames[row]))])

    def stored(self, row: int) -> NDArray[np.uint8]:
        """The bytes of a video as they are in the file."""
        start = int(self._offsets[row])
        return self._get_map()[1][start : start + int(self._nbytes[row])]

    def offset(self, row: int) -> int:
        """Where in the file a video begins."""
        return int(self._offsets[row])

    def times_s(self, row: int) -> NDArray[np.float32]:
        """When each frame of a video is shown, (T,) float32, in seconds since the first."""
        offset = int(self._times[row])
        return self._get_map()[1][offset : offset + 4 * int(self.num_frames[row])].view(np.float32)

    def encoded(self, row: int) -> Encoded:
        """A video as `ShardWriter.add` takes it."""
        data = self.stored(row) if self._jpeg else self._frames(row)
        starts = self._starts(row) if self._jpeg else None
        return Encoded(data, starts, int(self.num_frames[row]), self.times_s(row), int(self.crc32[row]))

    def verify(self, row: int) -> None:
        """Compare a video's bytes with its CRC-32.

        Raises:
            ShardError: they differ.
            OSError: they cannot be read now.  (Where the disk fails, a map would kill the process with SIGBUS.)
        """
        crc, place = 0, int(self._offsets[row])
        end = place + int(self._nbytes[row])
        with self._open_file() as file:
            while place < end and (part := os.pread(file.fileno(), min(_PART_BYTES, end - place), place)):
                crc, place = isal_zlib.crc32(part, crc), place + len(part)
        if crc != self.crc32[row]:
            what = f"frames are corrupted: CRC-32 {crc:08x}, expected {self.crc32[row]:08x}"
            raise ShardError(self.path, what, REPAIR, self.video_ids[row])

    def close(self) -> None:
        """Release the map and the file; arrays that view it stay valid, and the next read opens it again."""
        self._map = self._file = None

    def _uses_preadv(self, frames: Sequence[int]) -> bool:
        """Whether a clip is read with preadv and not from the map."""
        return not self.use_map and not self._jpeg and isinstance(frames, range) and frames.step == 1

    def _get_map(self) -> tuple[mmap.mmap, NDArray[np.uint8]]:
        mapped = self._map
        if mapped is None:
            with self._open_file() as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            mapped = self._map = memory, np.frombuffer(memory, np.uint8)
            self._file = None  # a map has a descriptor of its own: one is enough
        return mapped

    def _get_file(self) -> io.FileIO:
        file = self._file
        if file is None:
            file = self._file = self._open_file()
            self._map = None
        return file

    def _open_file(self) -> io.FileIO:
        """The file that the index was read from, open.

        Raises:
            ShardError: it was removed, or another file has its name.
        """
        try:
            file = open(self.path, "rb", buffering=0)  # noqa: SIM115  the caller's
        except FileNotFoundError:
            raise ShardError(
                self.path, "the shard was removed after its index was read", "run `make preprocess`"
            ) from None
        if file_id(file.fileno())[:2] != self._file_id[:2]:  # device and inode
            file.close()
            what = "the shard was replaced by another file after its index was read"
            raise ShardError(self.path, what, "start again (training: with --resume auto)")
        return file

    def _read_bytes(self, begin: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of the file, in memory that the thread's next call overwrites, so that it stays in the cache."""
        memory: NDArray[np.uint8] | None = getattr(_of_thread, "memory", None)
        if memory is None or len(memory) < nbytes:
            memory = _of_thread.memory = np.empty(nbytes, np.uint8)
        # Held until the bytes are read: another thread may close it, and another file may get its number.
        file = self._get_file()
        rest = memory[:nbytes].data
        with naming(self.path):
            while rest:
                read = os.preadv(file.fileno(), [rest], begin)
                if not read:
                    raise ShardError(self.path, "the shard was truncated after it was opened", REPAIR)
                rest, begin = rest[read:], begin + read
        return memory

    def _starts(self, row: int) -> NDArray[np.int64]:
        offset = int(self._tables[row])
        return self._get_map()[1][offset : offset + 8 * int(self.num_frames[row] + 1)].view(np.int64)

    def _frames(self, row: int) -> NDArray[np.uint8]:
        return self.stored(row).reshape(int(self.num_frames[row]), *self._frame_shape)

    def _decode_jpeg(self, row: int, frame: int) -> NDArray[np.uint8]:
        first, last = self._starts(row)[frame : frame + 2]
        data = self.stored(row)[first:last]
        try:
            size = simplejpeg.decode_jpeg_header(data)[:2]  # first: some hundred bytes can be a picture of 12 GB
            if size == self._frame_shape[:2]:
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            what = f"frame {frame} is not a complete JPEG ({error})"
            raise ShardError(self.path, what, REPAIR, self.video_ids[row]) from None
        what = f"frame {frame} is {size} pixels, expected {self._frame_shape[:2]}"
        raise ShardError(self.path, what, REPAIR, self.video_ids[row])


@functools.cache
def _pixels(width: int) -> np.dtype[np.void]:
    """A row of pixels."""
    return np.dtype(f"V{3 * width}")
