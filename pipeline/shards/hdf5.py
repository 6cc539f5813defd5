"""What shards use of HDF5, and checks of what it must not be trusted with.  The only module that imports h5py."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.common.errors import REPAIR, ShardError
from pipeline.shards.checksum import check
from pipeline.shards.direct_io import BLOCK_BYTES

_METADATA_BLOCK_BYTES = 1 << 14
_ALIGNED_FROM_BYTES = 1 << 16
# What h5py raises for files that make no sense inside.
_UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError)


def versions() -> str:
    """The versions of libhdf5 and h5py, for people."""
    return f"{h5py.version.hdf5_version}, h5py {h5py.__version__}"


def create(path: Path) -> h5py.File:
    """Create a file; nothing of the clock, the host or the library's version goes into it."""
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


class FileId(NamedTuple):
    """Tells a file from another that has taken its name; a rename keeps it."""

    device: int
    inode: int
    mtime_ns: int
    nbytes: int


def file_id(file: Path | int) -> FileId:
    """The id of a file, by its path or an open descriptor.

    Raises:
        OSError: it is missing or cannot be looked at.
    """
    stat = os.stat(file)
    return FileId(stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)


def missing(path: Path) -> ShardError:
    """The error for a shard that is not there."""
    return ShardError(path, "no such shard", "run `make preprocess`")


@contextlib.contextmanager
def open_finished(path: Path) -> Iterator[h5py.File]:
    """Open a finished shard of this format for reading; content that makes no sense is a ShardError, too.

    Raises:
        FormatError: it is of another format.
        ShardError: it is missing, corrupted or unfinished.
    """
    if not path.is_file():
        raise missing(path)
    try:
        check(path)
        with h5py.File(path, "r", locking=False) as file:
            if not file.attrs.get("complete", False):
                raise ShardError(path, "the shard is unfinished", "run `make preprocess`")
            recipe = str(file.attrs["recipe"])
            if hashlib.sha256(recipe.encode()).hexdigest() != file.attrs["recipe_sha256"]:
                raise ShardError(path, "the recipe does not match its fingerprint", REPAIR)
            yield file
    except ShardError:
        raise
    except _UNREADABLE as error:
        raise ShardError(path, f"not a valid HDF5 file ({_reason(error)})", REPAIR) from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def own(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies completely in this file: HDF5 follows links and reads other files without being asked to.

    Raises:
        ShardError: it does not.
    """
    path = Path(file.filename)
    parts = name.split("/")
    links = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    if not all(isinstance(file.get(link, getlink=True), h5py.HardLink) for link in links):
        raise ShardError(path, f"{name} is not in this file", REPAIR)
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or dataset.chunks:
        raise ShardError(path, f"{name} is not a contiguous dataset of this file", REPAIR)
    offset = dataset.id.get_offset()
    if dataset.nbytes and (offset is None or offset + dataset.nbytes > path.stat().st_size):
        raise ShardError(path, f"the file is truncated: {name} ends after the file does", REPAIR)
    return dataset


class Place(NamedTuple):
    """Shape, dtype and byte offset of a dataset."""

    shape: tuple[int, ...]
    dtype: str
    offset: int | None


def place(file: h5py.File, name: str) -> Place | str:
    """The place of a dataset that lies completely in this file; or what is wrong with it."""
    try:
        dataset = own(file, name)
        return Place(dataset.shape, str(dataset.dtype), dataset.id.get_offset())
    except ShardError as error:
        return error.what
    except _UNREADABLE as error:
        return f"{name} cannot be read ({_reason(error)})"


def names(file: h5py.File, group: str = "/") -> frozenset[str]:
    """The names in a group; none when there is no such group in this file."""
    if group != "/" and not isinstance(file.get(group, getlink=True), h5py.HardLink):
        return frozenset()
    members = file[group]
    return frozenset(members) if isinstance(members, h5py.Group) else frozenset()


def table(rows: Sequence[tuple], fields: dict[str, str]) -> NDArray:
    """Rows as a structured array; texts in fixed-length UTF-8, as long as the longest."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
    encoded = [
        _texts(column) if kind == "text" else np.array(column, dtype=kind)
        for column, kind in zip(columns, fields.values(), strict=True)
    ]
    joined = np.empty(len(rows), [(name, array.dtype) for name, array in zip(fields, encoded, strict=True)])
    for name, array in zip(fields, encoded, strict=True):
        joined[name] = array
    return joined


def _texts(column: Sequence[str]) -> NDArray:
    """Texts as bytes of fixed length.

    HDF5 tools take such bytes as ASCII, so a column with others declares UTF-8; without them the shard's bytes are
    those of earlier versions.
    """
    texts = [text.encode() for text in column]
    nbytes = max([1, *map(len, texts)])
    kind = np.dtype(f"S{nbytes}")
    if not all(text.isascii() for text in texts):
        kind = np.dtype(f"S{nbytes}", metadata={"h5py_encoding": "utf-8"})
    return np.array(texts, kind)


def read_rows(file: h5py.File, name: str) -> NDArray:
    """A table written by `table`, as a structured array."""
    return own(file, name)[:]


def read_columns(file: h5py.File, name: str) -> dict[str, NDArray]:
    """The columns of a table written by `table`, each an array of its own; texts as str objects, equal ones shared."""
    rows = read_rows(file, name)
    return {
        field: decode(rows[field]) if rows[field].dtype.kind == "S" else rows[field].copy()
        for field in rows.dtype.names or ()
    }


def decode(column: NDArray) -> NDArray:
    """UTF-8 texts of fixed length as an array of str objects, equal texts of it as one object."""
    texts = {text: text.decode() for text in set(column.tolist())}
    return np.array([texts[text] for text in column.tolist()], dtype=object)
