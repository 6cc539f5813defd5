"""The table of a shard that says what became of each of its planned videos."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import REPAIR, ShardError
from pipeline.common.outcome import LATER_FIELDS, STATUSES
from pipeline.common.text import shown
from pipeline.shards.format import OUTCOME_FIELDS
from pipeline.shards.hdf5 import Opened, decode, read_rows
from pipeline.shards.head import names


def read_outcomes(shard: Opened) -> dict[str, NDArray]:
    """The columns of the table `outcomes`, each an array of its own; texts as str objects, equal ones shared.

    Raises:
        ShardError: a value is not possible.
        Hdf5Error: it is not a table of this file.
    """
    present = shard.file.rows("outcomes").dtype.names or ()
    fields = {name: kind for name, kind in OUTCOME_FIELDS.items() if name in present or name not in LATER_FIELDS}
    rows = read_rows(shard, "outcomes", fields)
    names(shard.path, rows["video_id"].tolist(), "outcomes")
    columns = {name: decode(rows[name]) if kind == "text" else rows[name].copy() for name, kind in fields.items()}
    for name in LATER_FIELDS:
        columns.setdefault(name, np.full(len(rows), "", object))
    for name, values in columns.items():
        if name == "status":
            wrong = [text for text in set(values) if text not in STATUSES]
        elif OUTCOME_FIELDS[name] == "text":
            wrong = [text for text in set(values) if "\0" in text]
        else:
            possible = (values >= (columns["status"] == "ok" if name == "num_frames" else 0)) & np.isfinite(values)
            wrong = values[~possible].tolist()
        if wrong:
            what = f"the table outcomes has {name} {shown(wrong[0])}, which is not possible"
            raise ShardError(shard.path, what, REPAIR)
    return columns
