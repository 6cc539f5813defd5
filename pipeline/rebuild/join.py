"""Builds ledgers: joins label files, videos on disk, earlier ledgers and shards, one row for each label row.

A row is first `pending` or `missing`, by the files on disk.  What an earlier ledger or a shard knows of its video
replaces that, so that a rebuild loses nothing.
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
from pipeline.ledger.files import exists
from pipeline.ledger.schema import COLUMNS
from pipeline.ledger.table import blank_rows, class_names, ledger_path, read_columns
from pipeline.rebuild import known_outcomes
from pipeline.shards.store import Store
from pipeline.videos.matching import Match, match_videos
from pipeline.videos.names import ENDINGS, is_video
from pipeline.videos.scan import Files, scan_videos


@dataclass(frozen=True)
class BuiltLedgers:
    """Ledgers that are not written yet, and what was noticed while they were built.

    Attributes:
        ledgers: by split, each sorted by video_id, in the columns and dtypes of COLUMNS.
        extra: videos that no label row uses: split, path, reason.
        broken: earlier ledgers that cannot be read; a copy is to be kept.
        unchanged: splits whose ledger is equal to the earlier one, and so is valid already.
        verdict: what was recognised, in words.
        warnings: what is unusual but usable.
        damaged: names of damaged shards.
        listing: the label CSV to be written to `made_split.listing_path`; None: it stays as it is.
    """

    ledgers: dict[str, pd.DataFrame]
    extra: pd.DataFrame
    broken: list[Path]
    unchanged: list[str]
    verdict: list[str]
    warnings: list[str]
    damaged: list[str]
    listing: pd.DataFrame | None


def join_sources(settings: Preprocess, store: Store, forget: Collection[str] = ()) -> BuiltLedgers:
    """Build the ledgers of a dataset from all that is known of its videos; nothing is written.

    Args:
        settings: where label files, videos and earlier ledgers are.
        store: the shards.
        forget: bad statuses whose videos get the status `retry`.

    Raises:
        InputError: there are no label files, no videos, or bad values (all of them are listed).
    """
    root = settings.data_root
    if root and not Path(root).is_dir():
        raise InputError(f"{root}: no such folder. Set --preprocess.data_root=FOLDER (make: DATA=FOLDER).")
    files = scan_videos(Path(root)) if root else Files([], frozenset(), [])
    labels = load_labels(settings, [path for path in files.paths if is_video(path)])
    match = match_videos(labels, files)
    verdict, warnings = [*labels.verdict, *match.verdict], [*labels.warnings, *match.warnings]
    kept: list[pd.DataFrame] = []
    built = BuiltLedgers({}, match.extra, [], [], verdict, warnings, [], labels.listing)
    for split in SPLITS:
        fresh = _rows(labels.table, match, split)
        if len(fresh):
            built.ledgers[split] = _remember(fresh, split, settings, store, forget, built)
        elif exists(ledger_path(settings, split)):
            path = ledger_path(settings, split)
            kept.append(_classes_of(path, split))
            built.warnings.append(f"{path}: no label file has rows of {split}. The ledger is left unchanged.")
        if fresh.empty and (count := int(match.extra["split"].eq(split).sum())):
            built.warnings.append(f"{count:,} videos are in {split} folders, but no label file has rows of {split}.")
    class_names(*built.ledgers.values(), *kept)
    if root and not built.damaged and all(ledger["status"].eq("missing").all() for ledger in built.ledgers.values()):
        hint = f" {labels.hint}" if labels.hint else ""
        raise InputError(
            f"{root}: none of the {len(labels.table):,} videos of the label files is here or in a shard. Expected "
            f"{_expected(labels.kinetics)}.{hint} (For ledgers of label files only, set --preprocess.data_root= and "
            "preprocess.labels.)",
            details=built.warnings,
        )
    if not root:
        built.verdict.append("videos: data_root is not set, so videos in no shard are missing")
    return built


def _classes_of(path: Path, split: str) -> pd.DataFrame:
    """The label columns of a ledger that is left unchanged."""
    try:
        return read_columns(path, ["label", "label_id"])
    except InputError as error:
        action = f"No label file has rows of {split}, so name one in preprocess.labels, or remove the ledger."
        raise InputError(f"{error.message} {action}", error.bad_values) from None


def _expected(kinetics: bool) -> str:
    if not kinetics:
        return "the files that the label files name"
    return f"files named {{youtube_id}}_{{start}}_{{end}} ending in {' '.join(ENDINGS)}, in folders or not"


def _rows(table: pd.DataFrame, match: Match, split: str) -> pd.DataFrame:
    """A split's ledger from label files and files on disk only."""
    ids = table["video_id"].tolist()
    order = sorted(np.flatnonzero(table["split"].eq(split)).tolist(), key=ids.__getitem__)
    rows = pd.concat([table.take(order).reset_index(drop=True), blank_rows(len(order))], axis=1)
    rows["path"] = pd.Series([match.paths[row] for row in order], dtype="str")
    rows["status"] = pd.Series(["pending" if match.paths[row] else "missing" for row in order], dtype="str")
    rows["reason"] = pd.Series([match.reasons[row] for row in order], dtype="str")
    return rows[list(COLUMNS)].astype(COLUMNS)


def _remember(
    fresh: pd.DataFrame, split: str, settings: Preprocess, store: Store, forget: Collection[str], built: BuiltLedgers
) -> pd.DataFrame:
    """`fresh` with what is known already; adds to the verdict and the warnings of `built`."""
    before, warnings = known_outcomes.from_ledger(settings, split)
    built.warnings.extend(warnings)
    built.broken.extend([ledger_path(settings, split)] * len(warnings))
    stored = known_outcomes.from_shards(store, settings, split, len(fresh))
    built.verdict.extend(stored.verdict)
    built.damaged.extend(sorted(stored.damaged))
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
    """Warnings for what shards and the earlier ledger have and the new ledger has not."""
    ids = pd.Index(ledger["video_id"])
    losses = []
    if stored.damaged:
        damaged = some(sorted(stored.damaged))
        losses.append(f"{len(stored.damaged):,} shards are damaged: {damaged}. What the earlier ledger knows of their "
                      "videos is kept; run `make verify ARGS=--repair`")  # fmt: skip
    unknown = stored.outcomes["video_id"][~stored.outcomes["video_id"].isin(ids)]
    if len(unknown):
        losses.append(f"shards have {len(unknown):,} videos that are in no label file: {some(unknown)}")
    if before is not None:
        same = known_outcomes.same_ids(ledger, before)
        gone = before["video_id"][~before["video_id"].isin(ids)] if not same else ()
        if len(gone):
            losses.append(f"{len(gone):,} rows of the earlier ledger are no longer in a label file: {some(gone)}")
        were_ok = before["video_id"][before["status"].eq("ok")]
        were_ok = were_ok if same else were_ok[were_ok.isin(ids)]
        lost = sorted(set(were_ok) - set(ledger["video_id"][ledger["status"].eq("ok")]))
        if lost:
            losses.append(f"{len(lost):,} videos were ok but are now in no shard of {store}: {some(lost)}")
    return losses
