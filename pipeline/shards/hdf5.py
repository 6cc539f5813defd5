"""What shards need of HDF5, and what they must not take on trust from it.  The only module that imports h5py."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.common.errors import ShardError as ShardError
from pipeline.shards.checksum import check
from pipeline.shards.direct_io import BLOCK_BYTES

_METADATA_BLOCK_BYTES = 1 << 14
_ALIGNED_FROM_BYTES = 1 << 16


def create(path: Path) -> h5py.File:
    """A new file; nothing of the clock, the host or the version of the library goes into it."""
    # Metadata in few places: all of it is read when a shard is opened.
    return h5py.File(
        path, "w", libver="earliest", locking=False, meta_block_size=_METADATA_BLOCK_BYTES,
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

    On a full disk libhdf5 could not write what it still holds, and would crash when the program ends; so it goes into
    memory, which unlike /dev/null can be given the length that libhdf5 wants the file to have.
    """
    sink = os.memfd_create("abandoned")
    os.dup2(sink, file.id.get_vfd_handle())
    os.close(sink)
    with contextlib.suppress(RuntimeError):  # RLIMIT_FSIZE holds for memory, too; what failed first is the news
        file.close()


def end(fd: int) -> int:
    """Where a closed file made by `create` ends by its own account (superblock version 0, bytes 40..47)."""
    return int.from_bytes(os.pread(fd, 8, 40), "little")


@contextlib.contextmanager
def open_finished(path: Path) -> Iterator[h5py.File]:
    """A finished shard of this format, open for reading; what does not make sense inside is a ShardError, too.

    Raises:
        ShardError: it is missing, damaged, unfinished or of another format (FormatError).
    """
    if not path.is_file():
        raise ShardError(f"{path}: no such shard; run `make preprocess`")
    try:
        check(path)
        with h5py.File(path, "r", locking=False) as file:
            if not file.attrs.get("complete", False):
                raise ShardError(f"{path}: unfinished; run `make preprocess`")
            recipe = str(file.attrs["recipe"])
            if hashlib.sha256(recipe.encode()).hexdigest() != file.attrs["recipe_sha256"]:
                raise ShardError(f"{path}: its recipe has another fingerprint; run `make verify ARGS=--repair`")
            yield file
    except ShardError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShardError(f"{path}: not a whole HDF5 file ({reason}); run `make verify ARGS=--repair`") from None


def own(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies whole in this file: HDF5 follows links, and datasets that are kept elsewhere, unasked.

    Raises:
        ShardError: it does not.
    """
    path = Path(file.filename)
    parts = name.split("/")
    links = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    if not all(isinstance(file.get(link, getlink=True), h5py.HardLink) for link in links):
        raise ShardError(f"{path}: {name} is not in this file; run `make verify ARGS=--repair`")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external or found.chunks:
        raise ShardError(f"{path}: {name} is not a contiguous dataset of this file; run `make verify ARGS=--repair`")
    offset = found.id.get_offset()
    if found.nbytes and (offset is None or offset + found.nbytes > path.stat().st_size):
        raise ShardError(f"{path}: truncated: {name} ends after the file does; run `make verify ARGS=--repair`")
    return found


def table(rows: Sequence[tuple], fields: dict[str, str]) -> NDArray:
    """Rows as a structured array; texts in fixed-length UTF-8, as long as the longest."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
    encoded = [
        np.array([text.encode() for text in column], dtype=f"S{max([1, *(len(text.encode()) for text in column)])}")
        if kind == "text"
        else np.array(column, dtype=kind)
        for column, kind in zip(columns, fields.values(), strict=True)
    ]
    made = np.empty(len(rows), [(name, array.dtype) for name, array in zip(fields, encoded, strict=True)])
    for name, array in zip(fields, encoded, strict=True):
        made[name] = array
    return made


def read_rows(file: h5py.File, name: str) -> NDArray:
    """A table written by `table`, as a structured array."""
    return own(file, name)[:]


def read_columns(file: h5py.File, name: str) -> dict[str, NDArray]:
    """The columns of a table written by `table`; texts as an array of str objects."""
    table = read_rows(file, name)
    return {
        field: np.array([text.decode() for text in table[field].tolist()], dtype=object)
        if table[field].dtype.kind == "S"
        else table[field]
        for field in table.dtype.names or ()
    }
