"""Reads the tables of a damaged shard in a child process, because libhdf5 may crash or loop forever on it.

    python -m pipeline.shards.own_tables FILE       (the child)

What is read may be wrong: it has to be proven by checksums.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.common.outcome import OUTCOME_TYPES, Outcome
from pipeline.shards.salvage import Claim

_DEADLINE_S = 60
_MEMORY_BYTES = 2 << 30
_ROOT = Path(__file__).parents[2]


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
        OSError: the child cannot be started.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-m", "pipeline.shards.own_tables", os.path.abspath(path)],
            cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_DEADLINE_S, check=True,
        )  # fmt: skip
        answer = json.loads(child.stdout)
        outcomes = [Outcome(**dict(zip(OUTCOME_TYPES, row, strict=True))) for row in answer["outcomes"]]
        return OwnTables(answer["recipe"], outcomes, [Claim(*row) for row in answer["claims"]])
    except (subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None


def _main(path: Path) -> None:
    """Print the tables of a shard as JSON."""
    import h5py

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def rows(table: h5py.Dataset, names: Iterable[str]) -> list[tuple]:
        columns = (table[name].tolist() for name in names)
        texts = ([value.decode() if isinstance(value, bytes) else value for value in column] for column in columns)
        return list(zip(*texts, strict=True))

    with h5py.File(path, "r", locking=False) as file:
        claims, outcomes = rows(file["index"], Claim._fields), rows(file["outcomes"], OUTCOME_TYPES)
        print(json.dumps({"recipe": str(file.attrs["recipe"]), "claims": claims, "outcomes": outcomes}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
