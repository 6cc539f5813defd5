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

from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError
from pipeline.common.text import some
from pipeline.labels.label_files import load_labels
from pipeline.ledger.schema import COLUMNS
from pipeline.ledger.table import blank_rows, ledger_path
from pipeline.rebuild import known_outcomes
from pipeline.shards.store import Store
from pipeline.videos.matching import Match, match_videos
from pipeline.videos.names import ENDINGS
from pipeline.videos.scan import Files, scan_videos


@dataclass(frozen=True)
class BuiltLedgers:
    """Ledgers that are not written yet, and what was found on the way to them.

    Attributes:
        ledgers: by split, each sorted by video_id, in the columns and dtypes of COLUMNS.
        extra: videos that no label row uses: split, path, reason.
        broken: earlier ledgers that cannot be read, to be kept aside.
        unchanged: splits whose ledger says what the earlier one says, which was found valid as it was read.
        verdict: what was recognised, in plain words.
        warnings: what is odd but usable.
    """

    ledgers: dict[str, pd.DataFrame]
    extra: pd.DataFrame
    broken: list[Path]
    unchanged: list[str]
    verdict: list[str]
    warnings: list[str]


def build_ledgers(settings: Preprocess) -> dict[str, pd.DataFrame]:
    """The ledgers of a dataset by split; nothing is written.

    Raises:
        InputError: no label files, no videos, or faulty values (all of them are listed).
    """
    return join_sources(settings, Store(Path(settings.store))).ledgers


def join_sources(settings: Preprocess, store: Store, forget: Collection[str] = ()) -> BuiltLedgers:
    """As `build_ledgers`, with the files no row names and the words to tell the user.

    Args:
        settings: where label files, videos and earlier ledgers are.
        store: the shards.
        forget: bad statuses whose videos are to be tried again.

    Raises:
        InputError: no label files, no videos, or faulty values (all of them are listed).
    """
    root = settings.data_root
    if root and not Path(root).is_dir():
        raise InputError(f"{root}: no such folder; set --preprocess.data_root=FOLDER (make: DATA=FOLDER)")
    said = load_labels(settings)
    files = scan_videos(Path(root)) if root else Files([], frozenset(), [])
    found = match_videos(said, files)
    built = BuiltLedgers({}, found.extra, [], [], [*said.verdict, *found.verdict], [*said.warnings, *found.warnings])
    for split in SPLITS:
        fresh = _rows(said.table, found, split)
        if len(fresh):
            built.ledgers[split] = _remember(fresh, split, settings, store, forget, built)
        elif ledger_path(settings, split).is_file():
            built.warnings.append(f"{ledger_path(settings, split)}: no label file speaks of {split}; left as it is")
        if fresh.empty and (count := int(found.extra["split"].eq(split).sum())):
            built.warnings.append(f"{count:,} videos lie under {split}, and no label file speaks of {split}")
    if root and all(ledger["status"].eq("missing").all() for ledger in built.ledgers.values()):
        raise InputError(
            f"{root}: none of the {len(said.table):,} videos of the label files is here, nor in a shard; expected "
            f"{_expected(said.kinetics)} (for ledgers of label files alone: --preprocess.data_root= and "
            "preprocess.labels)",
            details=built.warnings,
        )
    if not root:
        built.verdict.append("videos: data_root is not set: a video that is in no shard counts as missing")
    return built


def _expected(kinetics: bool) -> str:
    if not kinetics:
        return "the files that the label files name"
    return f"files named {{youtube_id}}_{{start}}_{{end}} ending in {' '.join(ENDINGS)}, in folders or not"


def _rows(table: pd.DataFrame, found: Match, split: str) -> pd.DataFrame:
    """A split's ledger when only label files and the disk have been asked."""
    ids = table["video_id"].tolist()
    order = sorted(np.flatnonzero(table["split"].eq(split)).tolist(), key=ids.__getitem__)
    rows = pd.concat([table.take(order).reset_index(drop=True), blank_rows(len(order))], axis=1)
    rows["path"] = pd.Series([found.paths[row] for row in order], dtype="str")
    rows["status"] = pd.Series(["pending" if found.paths[row] else "missing" for row in order], dtype="str")
    rows["reason"] = pd.Series([found.reasons[row] for row in order], dtype="str")
    return rows[list(COLUMNS)].astype(COLUMNS)


def _remember(
    fresh: pd.DataFrame, split: str, settings: Preprocess, store: Store, forget: Collection[str], built: BuiltLedgers
) -> pd.DataFrame:
    """`fresh` with what is known already; adds to what `built` says."""
    before, warnings = known_outcomes.from_ledger(settings, split)
    built.warnings.extend(warnings)
    built.broken.extend([ledger_path(settings, split)] * len(warnings))
    stored = known_outcomes.from_shards(store, settings, split, len(fresh))
    built.verdict.extend(stored.verdict)
    ledger = known_outcomes.remember(fresh, before, stored, settings.data_root)
    ledger, retried = known_outcomes.mark_retries(ledger, settings.data_root, forget)
    built.verdict.extend(f"{split}: {line}" for line in retried)
    if before is not None and ledger.equals(before):
        built.unchanged.append(split)
    built.warnings.extend(f"{split}: {line}" for line in _losses(ledger, before, stored, settings.store))
    return ledger


def _losses(
    ledger: pd.DataFrame, before: pd.DataFrame | None, stored: known_outcomes.StoredOutcomes, store: str
) -> list[str]:
    """What shards and the earlier ledger have that the new ledger has not."""
    ids = pd.Index(ledger["video_id"])
    said = []
    unknown = stored.outcomes["video_id"][~stored.outcomes["video_id"].isin(ids)]
    if len(unknown):
        said.append(f"shards hold {len(unknown):,} videos that are in no label file: {some(unknown)}")
    if before is not None:
        same = known_outcomes.same_ids(ledger, before)
        gone = before["video_id"][~before["video_id"].isin(ids)] if not same else ()
        if len(gone):
            said.append(f"{len(gone):,} rows of the earlier ledger are in no label file any more: {some(gone)}")
        were_ok = before["video_id"][before["status"].eq("ok")]
        were_ok = were_ok if same else were_ok[were_ok.isin(ids)]
        lost = sorted(set(were_ok) - set(ledger["video_id"][ledger["status"].eq("ok")]))
        if lost:
            said.append(f"{len(lost):,} videos were ok, and are in no shard of {store} now: {some(lost)}")
    return said
