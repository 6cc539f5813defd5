"""Compares ledgers with the label files, the files on disk and the store, for `make manifests ARGS=--check`."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import BadValue, InputError, list_of
from pipeline.common.text import some
from pipeline.labels.label_files import load_labels
from pipeline.ledger.table import ledger_folder, ledger_path, read_ledgers
from pipeline.videos.matching import match_videos
from pipeline.videos.names import is_video
from pipeline.videos.scan import Files, scan_videos


def check_sources(settings: Preprocess) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Compare ledgers with the label files, the files on disk and the store.

    Returns:
        The ledgers; and a line for each kind of new or missing file or shard, which `make manifests` takes account of.

    Raises:
        InputError: there are no ledgers, some have bad values, or their rows differ from those of the label files
            (all such rows are listed).
    """
    # At the same time as the ledgers are read, which is as slow; threads would share the interpreter lock.
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("fork")) as pool:
        sources = pool.submit(_read_sources, settings)
        ledgers = read_ledgers(settings)
        labelled, disk = sources.result()
    bad_values = []
    for split, rows in labelled.items():
        path = ledger_path(settings, split)
        if split not in ledgers:
            raise InputError(f"{path}: no such ledger, but label files have {len(rows):,} rows. Run `make manifests`.")
        bad_values += _differing_rows(ledgers[split], rows, str(path))
    if bad_values:
        message = f"Ledgers differ from label files: {len(bad_values):,} errors. Run `make manifests`."
        raise InputError(message, bad_values)
    stale = _lost_shards(settings, ledgers)
    return ledgers, stale if disk is None else stale + _changed_files(settings, ledgers, disk)


@dataclass(frozen=True)
class _Disk:
    """All files in data_root, and those links to videos that a build uses by another path."""

    paths: set[str]
    spare: set[str]


def _read_sources(settings: Preprocess) -> tuple[dict[str, pd.DataFrame], _Disk | None]:
    """Rows of the label files by split, and the files on disk; None without a data_root.

    Raises:
        InputError: label files or data_root are missing, or label files have bad values.
    """
    root = Path(settings.data_root)
    if settings.data_root and not root.is_dir():
        raise InputError(f"{root}: no such folder. Set --preprocess.data_root=FOLDER (make: DATA=FOLDER).")
    files = scan_videos(root) if settings.data_root else Files([], frozenset(), [])
    labels = load_labels(settings, [path for path in files.paths if is_video(path)])
    table = labels.table[["split", "video_id", "label", "label_id"]]
    rows = {str(split): part.drop(columns="split") for split, part in table.groupby("split")}
    if not settings.data_root:
        return rows, None
    spare: set[str] = set()
    if files.links:  # a build neither uses nor lists some of them: match as it does, to know which
        match = match_videos(labels, files)
        spare = set(files.links) - {*match.paths, *match.extra["path"]}
    return rows, _Disk(set(files.paths), spare)


def _differing_rows(ledger: pd.DataFrame, rows: pd.DataFrame, file: str) -> list[BadValue]:
    """Rows that only the ledger or only the label files have, and rows whose labels differ."""
    names = ("label", "label_id")
    if len(rows) == len(ledger) and all(_by_id(rows, name) == _by_id(ledger, name) for name in names):
        return []  # nearly always, and fast
    both = ledger.reset_index().merge(rows, on="video_id", how="outer", suffixes=("", "_expected"), indicator=True)
    lines = both["index"].fillna(-1).astype(int) + 2
    bad_values = []
    for line, row in zip(lines, both.to_dict("records"), strict=True):
        if row["_merge"] == "right_only":
            bad_values.append(BadValue(file, 1, "video_id", row["video_id"], "a row for it, as in the label files"))
        elif row["_merge"] == "left_only":
            bad_values.append(BadValue(file, line, "video_id", row["video_id"], "a video of the label files"))
        else:
            for name in ("label", "label_id"):
                if row[name] != row[f"{name}_expected"]:
                    rule = f"{row[f'{name}_expected']!r}, as in the label files"
                    bad_values.append(BadValue(file, line, name, str(row[name]), rule))
    return bad_values


def _by_id(table: pd.DataFrame, name: str) -> dict[str, Any]:
    return dict(zip(list_of(table["video_id"]), list_of(table[name]), strict=True))


def _listed(path: Path) -> set[str]:
    """The paths in a `<split>.extra.csv`."""
    try:
        return set(pd.read_csv(path, dtype=str, na_filter=False)["path"])
    except (ValueError, KeyError):
        raise InputError(f"{path}: corrupted, expected columns path,reason. Run `make manifests`.") from None


def _lost_shards(settings: Preprocess, ledgers: dict[str, pd.DataFrame]) -> list[str]:
    """A line for each split whose ledger names shards that are not in the store."""
    stale = []
    shards = set(os.listdir(settings.store)) if os.path.isdir(settings.store) else set()
    for split, ledger in ledgers.items():
        lost = ledger["video_id"][ledger["status"].eq("ok") & ~ledger["shard"].isin(shards)].tolist()
        if lost:
            stale.append(
                f"{split}: {len(lost):,} videos are ok but their shards are not in {settings.store}: {some(lost)}"
            )
    return stale


def _changed_files(settings: Preprocess, ledgers: dict[str, pd.DataFrame], disk: _Disk) -> list[str]:
    """Lines for videos that are no longer on disk, and for those that no ledger or extra list has."""
    stale = []
    known: set[str] = set()
    for split, ledger in ledgers.items():
        paths = set(ledger["path"].tolist()) - {""}
        gone = sorted(paths - disk.paths)
        if gone:
            stale.append(f"{split}: {len(gone):,} videos are no longer on disk: {some(gone)}")
        known |= paths
    for path in ledger_folder(settings).glob("*.extra.csv"):
        known |= _listed(path)
    new = sorted(path for path in disk.paths - known - disk.spare if is_video(path))
    if new:
        stale.append(f"{len(new):,} videos on disk are in no ledger and no extra list: {some(new)}")
    return stale
