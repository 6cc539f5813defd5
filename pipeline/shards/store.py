"""What shards say became of their videos, for ledgers and plans."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.shards import hdf5


class Account(NamedTuple):
    """What a shard says of itself, without its frames.

    Attributes:
        recipe: as JSON.
        recipe_sha256: its fingerprint.
        split: train, val or test.
        outcomes: `shard`, `offset`, `nbytes`, `crc32` and the fields of Outcome, each an array (V,), one entry for
            every planned video.
    """

    recipe: str
    recipe_sha256: str
    split: str
    outcomes: dict[str, NDArray]


def read_account(path: Path) -> Account:
    """Open a shard once, and read all that ledgers and plans need of it.

    Raises:
        ShardError: as ShardReader.
    """
    with hdf5.open_finished(path) as file:
        recipe, sha256, split = (str(file.attrs[name]) for name in ("recipe", "recipe_sha256", "split"))
        outcomes, index = hdf5.read_columns(file, "outcomes"), hdf5.read_columns(file, "index")
        outcomes["shard"] = np.where(outcomes["status"] == "ok", path.name, "").astype(object)
        rows = {video_id: row for row, video_id in enumerate(index["video_id"])}
        # A video that is not stored takes the zero appended to each column.
        places = np.array([rows.get(video_id, -1) for video_id in outcomes["video_id"]], np.int64)
        for name in ("offset", "nbytes", "crc32"):
            outcomes[name] = np.append(index[name].astype(np.int64), 0)[places]
    return Account(recipe, sha256, split, outcomes)


def outcomes_table(accounts: Iterable[Account]) -> pd.DataFrame:
    """What became of every video that some shards were planned to hold, in the ledger's columns."""
    columns: dict[str, list[NDArray]] = {}
    for account in accounts:
        for name, values in account.outcomes.items():
            columns.setdefault(name, []).append(values)
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def read_outcomes(*paths: Path) -> pd.DataFrame:
    """As `outcomes_table`, of these shards.

    Raises:
        ShardError: as ShardReader.
    """
    return outcomes_table(map(read_account, paths))
