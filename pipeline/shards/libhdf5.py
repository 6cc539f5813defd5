"""What shards use of libhdf5: writing.  The only module that imports h5py; hdf5_file.py reads shards without it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike

from pipeline.common.files import naming
from pipeline.shards.direct_io import BLOCK_BYTES

_METADATA_BLOCK_BYTES = 1 << 14
_ALIGNED_FROM_BYTES = 1 << 16


def versions() -> str:
    """The versions of libhdf5 and h5py, for people."""
    return f"{h5py.version.hdf5_version}, h5py {h5py.__version__}"


def create(path: Path) -> h5py.File:
    """Create a file that must not exist; nothing of the clock, the host or the library's version goes into it."""
    # Metadata in few places: all of it is read when a shard is opened.
    with naming(path):
        return h5py.File(
            path, "x", libver="earliest", locking=False, meta_block_size=_METADATA_BLOCK_BYTES,
            alignment_threshold=_ALIGNED_FROM_BYTES, alignment_interval=BLOCK_BYTES,
        )  # fmt: skip


def reserve(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Create a contiguous dataset without writing it; returns its byte offset in the file."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
    offset = h5py.h5d.create(group.id, name.encode(), kind, space, creation).get_offset()
    assert offset is not None, "an empty dataset has no place in the file"
    return offset


def abandon(file: h5py.File) -> None:
    """Close a file that will not be kept.

    On a full disk libhdf5 could not write what it still buffers, and would crash when the program ends.  So that goes
    into memory, which unlike /dev/null can be given the length that libhdf5 wants the file to have.
    """
    sink = os.memfd_create("abandoned")
    os.dup2(sink, file.id.get_vfd_handle())
    os.close(sink)
    with contextlib.suppress(RuntimeError):  # RLIMIT_FSIZE also limits memory; the first error is the one to report
        file.close()


def end(fd: int) -> int:
    """Where a closed file made by `create` ends by its own account (superblock version 0, bytes 40..47)."""
    return int.from_bytes(os.pread(fd, 8, 40), "little")
