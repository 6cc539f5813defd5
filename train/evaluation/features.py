"""Keeps features while they are computed, so that `make features` resumes after it was killed, for train.features."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import check_regular, naming

_BLOCK_ROWS = 4096


class PartFile:
    """Rows of features that are appended to a file, each with its CRC-32; a context manager.

    Opening it keeps the rows up to the first one that is incomplete or corrupted: a process that is killed, a full disk
    and a power failure leave such rows at the end.

    Args:
        path: the file; made if it is missing.
        dim: numbers in a row.

    Attributes:
        num_rows: rows in the file.

    Raises:
        UserError: something else than a regular file has its name.
        OSError: it cannot be opened, read or cut.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self._path = path
        self._type = np.dtype([("features", "<f4", (dim,)), ("crc32", "<u4")])
        check_regular(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self.num_rows = 0
        size = os.fstat(self._fd).st_size
        for rows in self._read(size // self._type.itemsize):
            good = np.array([_crc32(row) for row in rows["features"]], np.uint32) == rows["crc32"]
            self.num_rows += len(rows) if good.all() else int(good.argmin())
            if not good.all():
                break
        self.cut(self.num_rows)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def cut(self, num_rows: int) -> None:
        """Keep only the first rows."""
        with naming(self._path):
            os.ftruncate(self._fd, num_rows * self._type.itemsize)
        self.num_rows = num_rows

    def append(self, features: NDArray[np.float32]) -> None:
        """Append rows, (N, dim).

        Raises:
            OSError: they cannot be written; the next opening removes what was written of the last row.
        """
        rows = np.empty(len(features), self._type)
        rows["features"] = features
        rows["crc32"] = [_crc32(row) for row in rows["features"]]
        rest, at = memoryview(rows.tobytes()), self.num_rows * self._type.itemsize
        with naming(self._path):
            while rest:
                written = os.pwrite(self._fd, rest, at)
                rest, at = rest[written:], at + written
        self.num_rows += len(rows)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All rows in order, some thousand at a time: (N, dim) float32."""
        for rows in self._read(self.num_rows):
            yield np.ascontiguousarray(rows["features"])

    def remove(self) -> None:
        """Remove the file's name."""
        self._path.unlink()

    def _read(self, num_rows: int) -> Iterator[NDArray]:
        for first in range(0, num_rows, _BLOCK_ROWS):
            count = min(_BLOCK_ROWS, num_rows - first) * self._type.itemsize
            with naming(self._path):
                content = os.pread(self._fd, count, first * self._type.itemsize)
            yield np.frombuffer(content, self._type)


def _crc32(row: NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).data)
