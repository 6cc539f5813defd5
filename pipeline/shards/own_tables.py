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

    from pipeline.shards.hdf5 import read_columns

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with h5py.File(path, "r", locking=False) as file:
        index, outcomes = read_columns(file, "index"), read_columns(file, "outcomes")
        tables = {
            "recipe": str(file.attrs["recipe"]),
            "claims": list(zip(*(index[name].tolist() for name in Claim._fields), strict=True)),
            "outcomes": list(zip(*(outcomes[name].tolist() for name in OUTCOME_TYPES), strict=True)),
        }
    print(json.dumps(tables))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
