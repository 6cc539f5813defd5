"""The shards of a store, each opened once a run: outcomes for ledgers and plans, frames for copies and checks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.errors import ShardError
from pipeline.shards import hdf5
from pipeline.shards.hdf5 import FileId
from pipeline.shards.head import Head, read_head
from pipeline.shards.outcomes import read_outcomes
from pipeline.shards.structure import structure_errors

if TYPE_CHECKING:
    from pipeline.shards.reader import ShardReader


EARLIER = "earlier"
"""The folder, in a store, of the shards of an earlier plan."""


@dataclass(frozen=True, eq=False)
class Shard:
    """What one opening of a shard has read; no file is kept open.

    Attributes:
        path: the shard.
        split: train, val or test.
        head: its recipe and index.
        outcomes: `offset`, `nbytes`, `crc32` and the fields of Outcome, each an array (P,), one entry for each of
            the P planned videos, stored or not.
        structure_errors: (video, what) where HDF5 datasets and index differ; None: they were not compared.
    """

    path: Path
    split: str
    head: Head
    outcomes: dict[str, NDArray]
    structure_errors: list[tuple[str, str]] | None

    @property
    def recipe(self) -> str:
        """The recipe as JSON."""
        return self.head.recipe

    @property
    def recipe_sha256(self) -> str:
        """Fingerprint of the recipe."""
        return self.head.recipe_sha256

    def planned(self) -> list[str]:
        """Ids of the videos that the shard was planned to hold, in its order."""
        return self.outcomes["video_id"].tolist()

    def stored(self) -> list[str]:
        """Ids of the videos whose frames the shard holds."""
        return self.outcomes["video_id"][self.outcomes["status"] == "ok"].tolist()

    def reader(self) -> ShardReader:
        """A new reader of the frames, without another opening by libhdf5.

        Raises:
            ShardError: the index is impossible.
        """
        from pipeline.shards.reader import ShardReader  # not at the top: ledgers need no OpenCV, which takes 15 MiB

        return ShardReader(self.path, self.head)

    def at(self, path: Path) -> Shard:
        """The same shard after its file was renamed."""
        return self if path == self.path else replace(self, path=path)


def open_shard(path: Path, *, with_structure: bool = False) -> Shard:
    """Open a shard, check it, and read all but its frames.

    Args:
        path: the shard.
        with_structure: also compare its HDF5 datasets with its index, for `Shard.structure_errors`.

    Raises:
        FormatError: it is of another format.
        ShardError: it is missing, corrupted, unfinished, or links to other files.
    """
    with hdf5.open_finished(path) as shard:
        head, split = read_head(shard), str(shard.attrs["split"])
        outcomes = read_outcomes(shard)
        rows = {video_id: row for row, video_id in enumerate(head.video_ids)}
        # A video that is not stored takes the zero appended to each column.
        places = np.array([rows.get(video_id, -1) for video_id in outcomes["video_id"]], np.int64)
        for name in ("offset", "nbytes", "crc32"):
            outcomes[name] = np.append(head.index[name].astype(np.int64), 0)[places]
        errors = list(structure_errors(shard.file, head)) if with_structure else None
    return Shard(path, split, head, outcomes, errors)


def outcomes_table(shards: Iterable[Shard]) -> pd.DataFrame:
    """The outcome of every video that some shards were planned to hold, in the ledger's columns."""
    columns: dict[str, list[NDArray]] = {}
    for shard in shards:
        # One text a shard, not one a video.
        names = np.where(shard.outcomes["status"] == "ok", np.array([shard.path.name], dtype=object), "")
        for name, values in {**shard.outcomes, "shard": names}.items():
            columns.setdefault(name, []).append(values)
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def shards_in(folder: Path) -> list[Path]:
    """The files of a folder that are named as shards are, sorted; none when it does not exist.

    Raises:
        OSError: the folder cannot be read now (`Path.glob` would give no files then).
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder / name for name in names if name.endswith(".h5") and not name.startswith("."))


class Store:
    """The shards of a folder; opens each once, and again only when another file has taken its name.

    A command makes one and passes it down.  Threads may share it.

    Args:
        folder: the store; it need not exist.
        with_structure: as for `open_shard`.
    """

    def __init__(self, folder: Path, *, with_structure: bool = False) -> None:
        self.folder = folder
        self._with_structure = with_structure
        self._lock = threading.Lock()  # of the dictionary; shards are opened outside of it
        self._known: dict[FileId, Shard | ShardError] = {}

    def paths(self) -> list[Path]:
        """The files of the folder that are named as shards are, sorted."""
        return shards_in(self.folder)

    def shard(self, path: Path) -> Shard:
        """A shard of this store, or one that was moved to a folder in it.

        Raises:
            FormatError: it is of another format.
            ShardError: it is missing, corrupted, unfinished, or links to other files.
            OSError: it cannot be read now.
        """
        try:
            key = hdf5.file_id(path)
        except (FileNotFoundError, NotADirectoryError):
            raise hdf5.missing(path) from None
        with self._lock:
            known = self._known.get(key)
        if known is None or (isinstance(known, Shard) and self._with_structure and known.structure_errors is None):
            try:
                known = open_shard(path, with_structure=self._with_structure)
            except ShardError as error:
                known = type(error)(*error.args)  # without the traceback, which keeps what its frames hold
            with self._lock:
                self._known[key] = known
        if isinstance(known, ShardError):
            raise type(known)(path, known.what, known.action, known.video_id)
        return known.at(path)

    def add(self, shard: Shard) -> None:
        """Remember a shard that was opened elsewhere, as the writer does to check it."""
        with self._lock:
            self._known[shard.head.file_id] = shard
