"""Reads the tables of a damaged shard.  What is read may be wrong: it has to be proven by checksums."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from numpy.typing import NDArray

from pipeline.common.outcome import LATER_FIELDS, OUTCOME_TYPES, Outcome
from pipeline.shards.hdf5_file import Hdf5Error, Hdf5File
from pipeline.shards.salvage import Claim


class OwnTables(NamedTuple):
    """What a damaged shard says of itself.

    Attributes:
        recipe: as JSON.
        outcomes: of all videos that it was planned to hold, in its order.
        claims: its stored videos.
    """

    recipe: str
    outcomes: list[Outcome]
    claims: list[Claim]


def own_tables(path: Path) -> OwnTables | None:
    """The tables of a damaged shard; None when they cannot be read.

    Raises:
        OSError: the file cannot be read now.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = Hdf5File(fd)
        index, outcomes = file.rows("index"), file.rows("outcomes")
        present = [name for name in OUTCOME_TYPES if name in (outcomes.dtype.names or ()) or name not in LATER_FIELDS]
        return OwnTables(
            str(file.attribute("recipe")),
            [Outcome(**dict(zip(present, row, strict=True))) for row in _tuples(outcomes, present)],
            [Claim(*row) for row in _tuples(index, Claim._fields)],
        )
    except (Hdf5Error, UnicodeDecodeError, ValueError):  # numpy: no such column
        return None
    finally:
        os.close(fd)


def _tuples(table: NDArray, names: Iterable[str]) -> list[tuple]:
    columns = (table[name].tolist() for name in names)
    texts = ([value.decode() if isinstance(value, bytes) else value for value in column] for column in columns)
    return list(zip(*texts, strict=True))
