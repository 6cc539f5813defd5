"""The outer join of label files, videos on disk, earlier ledgers and shards: one ledger row a label row.

Every label row ends in a ledger.  The disk says `pending` or `missing`; what an earlier ledger or a shard knows
of a video goes over that, so that a rebuild forgets nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import labels, layout, learned, matching
from pipeline.faults import ManifestError
from pipeline.ledger import blank
from pipeline.recipe import SPLITS, Preprocess
from pipeline.schema import COLUMNS


@dataclass(frozen=True)
class Built:
    """Ledgers that are not written yet, and what was found on the way to them.

    Attributes:
        ledgers: by split, each sorted by video_id, in the columns and dtypes of COLUMNS.
        extra: videos that no label row uses: split, path, reason.
        verdict: what was recognised, in plain words.
        warnings: what is odd but usable.
    """

    ledgers: dict[str, pd.DataFrame]
    extra: pd.DataFrame
    verdict: list[str]
    warnings: list[str]


def build(settings: Preprocess) -> dict[str, pd.DataFrame]:
    """The ledgers of a dataset by split; nothing is written.

    Raises:
        ManifestError: no label files, no videos, or faulty values (all of them are listed).
    """
    return join(settings).ledgers


def join(settings: Preprocess, forget: Collection[str] = ()) -> Built:
    """As `build`, with the files no row names and the words to tell the user.

    Args:
        settings: what to join.
        forget: bad statuses whose videos are to be tried again.

    Raises:
        ManifestError: no label files, no videos, or faulty values (all of them are listed).
    """
    root = Path(settings.data_root)
    if settings.data_root and not root.is_dir():
        raise ManifestError(f"{root}: no such folder; set --preprocess.data_root=FOLDER (make: DATA=FOLDER)")
    said = labels.load(settings)
    files = layout.scan(root) if settings.data_root else layout.Files([], frozenset(), [])
    found = matching.match(said, files)
    warnings = [*said.warnings, *found.warnings]
    verdict = [*said.verdict, *found.verdict]
    table = _rows(said.table, found)
    ledgers = {}
    for split in SPLITS:
        mine = table[table["split"] == split]
        if len(mine):
            fresh = mine.sort_values("video_id", kind="stable", ignore_index=True)
            stored = learned.from_shards(settings, split)
            verdict += stored.verdict
            ledgers[split] = learned.remember(fresh, learned.earlier(settings, split, warnings), stored, root, forget)
    if not any(ledger["status"].ne("missing").any() for ledger in ledgers.values()):
        raise ManifestError(
            f"{root}: none of the {len(table):,} videos of the label files is here; expected files named "
            "{youtube_id}_{start:06d}_{end:06d}.mp4, in train/ val/ test/ or in class folders in them"
        )
    return Built(ledgers, found.extra, verdict, warnings)


def _rows(table: pd.DataFrame, found: matching.Match) -> pd.DataFrame:
    """Ledger rows about which only label files and the disk have been asked."""
    rows = pd.concat([table.reset_index(drop=True).drop(columns="path"), blank(len(table))], axis=1)
    rows["path"] = pd.Series(found.paths, dtype="str")
    rows["status"] = pd.Series(np.where(rows["path"].ne(""), "pending", "missing"), dtype="str")
    rows["reason"] = pd.Series(found.reasons, dtype="str")
    return rows[list(COLUMNS)].astype(COLUMNS)
