"""Finds the videos in a damaged shard without libhdf5, by what a ledger knows of them.

The frames of a video are contiguous, and the ledger has their place and CRC-32.  Only the times of the frames, and with
codec jpeg the table of JPEGs, are in the shard alone; the video's record in the table `index` says where.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from pipeline.shards.encoding import Encoded

_REST = struct.Struct("<qqqIqq")  # a record of `index` after the id: format.INDEX_FIELDS
_TABLES_BYTES = 64 << 20  # the tables are at the end of a shard
_PART_BYTES = 1 << 20
_NEXT_JPEG = b"\xff\xd9\xff\xd8"  # end of one, start of the next


class Claim(NamedTuple):
    """What a ledger says of a stored video.

    Attributes:
        video_id: the video.
        num_frames: number of its frames.
        offset: where they begin in the shard.
        nbytes: how long they are.
        crc32: of these bytes.
    """

    video_id: str
    num_frames: int
    offset: int
    nbytes: int
    crc32: int


class Salvaged(NamedTuple):
    """A video as it is in a damaged shard.

    Attributes:
        encoded: its frames; `times_s` is empty when the times are not there.
        intact: whether the frames have the CRC-32 of the claim.
    """

    encoded: Encoded
    intact: bool


def salvage(
    path: Path, claims: Sequence[Claim], frame_shape: tuple[int, int, int], *, jpeg: bool
) -> dict[str, Salvaged]:
    """The videos of a damaged shard by id.  Only frames with `intact` are proven; times are what is there.

    Args:
        path: the shard.
        claims: its stored videos, in its order.
        frame_shape: height, width and 3.
        jpeg: whether frames are JPEGs.

    Returns:
        Those of `claims` whose frames lie in the file; views of the mapped file.

    Raises:
        OSError: it cannot be read now.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if not size:
            return {}
        for offset in range(0, size, _PART_BYTES):  # where the disk fails, a map would kill the process with SIGBUS
            os.pread(file.fileno(), _PART_BYTES, offset)
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    places = _places(data[max(0, size - _TABLES_BYTES) :].tobytes(), claims)
    videos = {}
    for claim in claims:
        stored = data[claim.offset : claim.offset + claim.nbytes] if claim.offset > 0 else data[:0]
        if not 0 < claim.num_frames or len(stored) != claim.nbytes:
            continue
        if not jpeg and claim.nbytes != claim.num_frames * int(np.prod(frame_shape)):
            continue  # of another recipe
        starts_at, times_at = places.get(claim.video_id, (0, 0))
        starts = _starts(stored, _read(data, starts_at, claim.num_frames + 1, np.dtype("<i8"))) if jpeg else None
        if starts is not None and len(starts) != claim.num_frames + 1:
            continue
        frames = stored if jpeg else stored.reshape(claim.num_frames, *frame_shape)
        times_s = _read(data, times_at, claim.num_frames, np.dtype("<f4"))
        if not len(times_s) or times_s[0] != 0 or not np.isfinite(times_s).all() or (np.diff(times_s) < 0).any():
            times_s = times_s[:0]
        encoded = Encoded(frames, starts, claim.num_frames, times_s, claim.crc32)
        videos[claim.video_id] = Salvaged(encoded, isal_zlib.crc32(stored.data) == claim.crc32)
    return videos


def _places(tables: bytes, claims: Sequence[Claim]) -> dict[str, tuple[int, int]]:
    """Byte offsets of each video's table of JPEGs and times, from its record in the table `index`.

    Times follow one another in the order of `claims`, so a video whose own record is damaged has them after the last.
    """
    places: dict[str, tuple[int, int]] = {}
    if not claims:
        return places
    width = max(len(claim.video_id.encode()) for claim in claims)
    for claim in claims:
        key = claim.video_id.encode().ljust(width, b"\0") + struct.pack("<q", claim.num_frames)
        at = tables.find(key)
        if at >= 0 and at + width + _REST.size <= len(tables):
            *_, starts_at, times_at = _REST.unpack_from(tables, at + width)
            places[claim.video_id] = starts_at, times_at
    before = np.cumsum([0, *(4 * claim.num_frames for claim in claims)]).tolist()
    begins = [places[claim.video_id][1] - skip for claim, skip in zip(claims, before, strict=False)
              if claim.video_id in places]  # fmt: skip
    begin = max(set(begins), key=begins.count, default=0)
    if begins.count(begin) * 2 > len(begins):
        for claim, skip in zip(claims, before, strict=False):
            places[claim.video_id] = places.get(claim.video_id, (0, 0))[0], begin + skip
    return places


def _read(data: NDArray[np.uint8], offset: int, count: int, dtype: np.dtype) -> NDArray:
    """Some numbers at a place of the file; none when it does not lie in the file."""
    end = offset + count * dtype.itemsize
    return data[offset:end].view(dtype) if 0 < offset and end <= len(data) else np.empty(0, dtype)


def _starts(stored: NDArray[np.uint8], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each JPEG of a video begins and the last ends: the table found, or where one ends and one begins."""
    if len(found) and found[0] == 0 and found[-1] == len(stored) and (np.diff(found) > 0).all():
        return found
    content, starts = stored.tobytes(), [0]
    while (at := content.find(_NEXT_JPEG, starts[-1])) >= 0:
        starts.append(at + 2)
    return np.array([*starts, len(content)], np.int64)
