"""Opens finished shards, and the tables in them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import REPAIR, ShardError
from pipeline.common.recipe import FORMAT_VERSION, SPLITS
from pipeline.common.text import shown
from pipeline.shards.checksum import check
from pipeline.shards.format import ATTRIBUTES
from pipeline.shards.hdf5_file import Hdf5Error, Hdf5File


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
    """The error for a shard that is not there.

    Raises:
        OSError: there is a link of its name, to a file that is not there now.
    """
    if path.is_symlink():
        raise OSError(errno.ENOLINK, "a link to a file that is not there", str(path))
    return ShardError(path, "no such shard", "run `make preprocess`")


class Opened(NamedTuple):
    """A finished shard that is open.

    Attributes:
        path: the shard.
        file_id: its id.
        file: its HDF5 part.
        attrs: its attributes, by name.
    """

    path: Path
    file_id: FileId
    file: Hdf5File
    attrs: dict[str, str | int | bool]


@contextlib.contextmanager
def open_finished(path: Path) -> Iterator[Opened]:
    """Open a finished shard of this format for reading; content that makes no sense is a ShardError, too.

    Raises:
        FormatError: it is of another format.
        ShardError: it is missing, corrupted or unfinished, or no program of this format wrote it.
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO has no writer to wait for
    except (FileNotFoundError, NotADirectoryError):
        raise missing(path) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise missing(path)
        check(path, fd)
        yield _opened(path, fd)
    except ShardError:
        raise
    except (Hdf5Error, UnicodeDecodeError) as error:
        raise ShardError(path, f"not a valid HDF5 file ({error})", REPAIR) from None
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(fd)


def _opened(path: Path, fd: int) -> Opened:
    file = Hdf5File(fd)
    attrs = {name: file.attribute(name) for name in ATTRIBUTES}
    if wrong := [name for name, kind in ATTRIBUTES.items() if type(attrs[name]) is not kind]:
        raise Hdf5Error(f"the attribute {wrong[0]} is of another type than in a shard")
    if attrs["format_version"] != FORMAT_VERSION or attrs["split"] not in SPLITS:
        raise Hdf5Error(f"format_version {attrs['format_version']}, split {shown(attrs['split'])}")
    if not attrs["complete"]:
        raise ShardError(path, "the shard is unfinished", "run `make preprocess`")
    if hashlib.sha256(str(attrs["recipe"]).encode()).hexdigest() != attrs["recipe_sha256"]:
        raise ShardError(path, "the recipe does not match its fingerprint", REPAIR)
    return Opened(path, file_id(fd), file, attrs)


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


def read_rows(shard: Opened, name: str, fields: dict[str, str]) -> NDArray:
    """A table written by `table`, as a structured array.


    Raises:
        ShardError: it has other columns.
        Hdf5Error: it is not a table of this file.
    """
    rows = shard.file.rows(name)
    columns = [(field, rows.dtype[field]) for field in rows.dtype.names or ()]
    if [(field, "text" if dtype.kind == "S" else dtype.str) for field, dtype in columns] != list(fields.items()):
        raise ShardError(shard.path, f"the table {name} has other columns than this format", REPAIR)
    return rows


def decode(column: NDArray) -> NDArray:
    """UTF-8 texts of fixed length as an array of str objects, equal texts of it as one object."""
    texts = {text: text.decode() for text in set(column.tolist())}
    return np.array([texts[text] for text in column.tolist()], dtype=object)
