"""The seal of a shard: a checksum of everything but the bytes of its videos, compared before the file is used.

The metadata of HDF5 has no checksums in the form that shards have, and one flipped bit can make libhdf5, with which
other programs read it, loop forever.  So a finished shard ends in a seal, after the part that is HDF5's (HDF5 tools
ignore it):

    runs    (n, 2) <i8: where each run of videos' bytes begins and ends, ascending
    tail    8 bytes of magic, then <u4 each: format version, n, CRC-32

The CRC-32 is of all bytes outside the runs and of the seal, except for the CRC-32 itself.  Each video has its own
CRC-32 in the index (format.py), which is sealed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from pipeline.common.errors import REPAIR, FormatError, ShardError
from pipeline.common.recipe import FORMAT_VERSION

_TAIL = struct.Struct("<8sIII")
_MAGIC = b"K-SEALED"
_RUN_BYTES = 16
_PART_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
# Reading more would take memory or minutes.  A video takes about 8 KiB outside of its frames, and 12 bytes a frame.
MAX_RUNS = 1 << 20
_MAX_SEALED_BYTES = 1 << 32


def write(fd: int, extents: Iterable[tuple[int, int]]) -> None:
    """Seal a file.

    Args:
        fd: the file, open for reading and writing, complete except for the seal.
        extents: (byte offset, number of bytes) of each video's data.
    """
    runs = _merge(extents)
    end = os.fstat(fd).st_size
    crc = _crc(fd, runs, end, FORMAT_VERSION)
    data = runs.tobytes() + _TAIL.pack(_MAGIC, FORMAT_VERSION, len(runs), crc)
    while data:
        written = os.pwrite(fd, data, end)
        data, end = data[written:], end + written


def check(path: Path, fd: int) -> None:
    """Compare a file with its seal.

    Args:
        path: the file, for messages.
        fd: the file, open for reading.

    Raises:
        FormatError: it is of another format.
        ShardError: it is corrupted outside its videos, truncated, or not a shard.
        OSError: it cannot be read.
    """
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TAIL.size, max(0, size - _TAIL.size))
    magic, version, count, crc = _TAIL.unpack(tail.rjust(_TAIL.size, b"\0"))
    end = size - _TAIL.size - count * _RUN_BYTES
    if magic != _MAGIC or end < 0:
        raise _unsealed(path, os.pread(fd, _HEAD_BYTES, 0))
    if count > MAX_RUNS:
        raise ShardError(path, f"the seal has {count:,} offsets, expected at most {MAX_RUNS:,}", REPAIR)
    data = os.pread(fd, count * _RUN_BYTES, end)
    if len(data) < count * _RUN_BYTES:
        raise ShardError(path, "the shard was truncated while it was read", REPAIR)
    runs = np.frombuffer(data, "<i8").reshape(-1, 2)
    places = [0, *runs.ravel().tolist(), end]
    if places != sorted(places):
        raise ShardError(path, "shard metadata is corrupted: the seal's offsets are not ascending", REPAIR)
    sealed = end - sum(places[2:-1:2]) + sum(places[1:-1:2])
    if sealed > _MAX_SEALED_BYTES:
        what = f"{sealed:,} bytes outside of its videos, expected at most {_MAX_SEALED_BYTES:,}"
        raise ShardError(path, what, REPAIR)
    actual = _crc(fd, runs, end, version)
    if actual != crc:
        raise ShardError(path, f"shard metadata is corrupted: CRC-32 {actual:08x}, expected {crc:08x}", REPAIR)
    if version != FORMAT_VERSION:
        raise _other_format(path, version)


def tail(path: Path) -> bytes:
    """The last part of a file's seal, with the checksum; empty when the file has none.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        last = os.pread(file.fileno(), _TAIL.size, max(0, size - _TAIL.size))
    return last if last.startswith(_MAGIC) else b""


def sealed_nbytes(path: Path) -> int | None:
    """How many bytes of videos a file has by its seal, which may be damaged; None when it has none that makes sense.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        _, _, count, _ = _TAIL.unpack(tail(path) or bytes(_TAIL.size))
        end = size - _TAIL.size - count * _RUN_BYTES
        if not count or end < 0:
            return None
        runs = np.frombuffer(os.pread(file.fileno(), count * _RUN_BYTES, end), "<i8").reshape(-1, 2)
    places = [0, *runs.ravel().tolist(), end]
    return int((runs[:, 1] - runs[:, 0]).sum()) if places == sorted(places) else None


def _unsealed(path: Path, head: bytes) -> ShardError:
    """The error for a file without a seal.  Format 1 had none; the recipe near its beginning identifies it."""
    if b'"format_version":1,' in head:
        return _other_format(path, 1)
    return ShardError(path, "the shard is truncated or not a shard: no seal at its end", REPAIR)


def _other_format(path: Path, version: int) -> FormatError:
    return FormatError(
        path,
        f"shard format {version}, this program reads {FORMAT_VERSION}",
        "update the older of the two: the program, or the shards with `make preprocess` into another STORE=DIR",
    )


def _merge(extents: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """(n, 2) begins and ends, ascending; extents that touch each other are one run."""
    runs: list[list[int]] = []
    for offset, nbytes in sorted(extents):
        if runs and runs[-1][1] == offset:
            runs[-1][1] += nbytes
        else:
            runs.append([offset, offset + nbytes])
    return np.array(runs, "<i8").reshape(-1, 2)


def _crc(fd: int, runs: NDArray[np.int64], end: int, version: int) -> int:
    """CRC-32 of the bytes outside the runs, up to `end`, and of the seal."""
    crc = 0
    for begin, stop in zip([0, *runs[:, 1].tolist()], [*runs[:, 0].tolist(), end], strict=True):
        for part in _parts(fd, begin, stop):
            crc = isal_zlib.crc32(part, crc)
    return isal_zlib.crc32(runs.tobytes() + _TAIL.pack(_MAGIC, version, len(runs), 0), crc)


def _parts(fd: int, begin: int, stop: int) -> Iterator[bytes]:
    while begin < stop and (part := os.pread(fd, min(_PART_BYTES, stop - begin), begin)):
        yield part
        begin += len(part)
