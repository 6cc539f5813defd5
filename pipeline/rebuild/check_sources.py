"""Ledgers beside what they stand for: the label files, the disk and the store."""

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
from pipeline.ledger.table import ledger_path, read_ledgers
from pipeline.videos.matching import match_videos
from pipeline.videos.names import is_video
from pipeline.videos.scan import scan_videos


def check_sources(settings: Preprocess) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Hold ledgers against the label files, the disk and the store.

    Returns:
        The ledgers; and what disk and store have that they do not know, or lack that they count on, which
        `make manifests` settles.

    Raises:
        InputError: there are no ledgers, or some are faulty; or one lacks a label row, has one too many or says
            otherwise: all such rows are listed.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("fork")) as beside:
        outside = beside.submit(_outside, settings)  # takes as long as the ledgers, and threads would share a lock
        ledgers = read_ledgers(settings)
        labelled, disk = outside.result()
    faults = []
    for split, rows in labelled.items():
        path = ledger_path(settings, split)
        if split not in ledgers:
            raise InputError(f"{path}: no such ledger, but label files have {len(rows):,} rows of it")
        faults += _against_labels(ledgers[split], rows, str(path))
    if faults:
        raise InputError(f"ledgers and label files differ ({len(faults):,} faults); run `make manifests`", faults)
    said = _against_store(settings, ledgers)
    return ledgers, said if disk is None else said + _against_disk(settings, ledgers, disk)


@dataclass(frozen=True)
class _Disk:
    """Files in data_root: all of them, and those links to videos that a build uses by another path."""

    paths: set[str]
    spare: set[str]


def _outside(settings: Preprocess) -> tuple[dict[str, pd.DataFrame], _Disk | None]:
    """Rows of the label files by split, and the files on disk; None without a data_root.

    Raises:
        InputError: label files or data_root are not there, or label files are faulty.
    """
    said = load_labels(settings)
    table = said.table[["split", "video_id", "label", "label_id"]]
    rows = {str(split): part.drop(columns="split") for split, part in table.groupby("split")}
    if not settings.data_root:
        return rows, None
    root = Path(settings.data_root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set --preprocess.data_root=FOLDER (make: DATA=FOLDER)")
    files = scan_videos(root)
    spare: set[str] = set()
    if files.links:  # a build neither uses nor lists some of them; only it knows which
        found = match_videos(said, files)
        spare = set(files.links) - {*found.paths, *found.extra["path"]}
    return rows, _Disk(set(files.paths), spare)


def _against_labels(ledger: pd.DataFrame, rows: pd.DataFrame, file: str) -> list[BadValue]:
    names = ("label", "label_id")
    if len(rows) == len(ledger) and all(_by_id(rows, name) == _by_id(ledger, name) for name in names):
        return []  # nearly always, and fast
    both = ledger.reset_index().merge(rows, on="video_id", how="outer", suffixes=("", "_there"), indicator=True)
    line = both["index"].fillna(-1).astype(int) + 2
    faults = []
    for at, row in zip(line, both.to_dict("records"), strict=True):
        if row["_merge"] == "right_only":
            faults.append(BadValue(file, 1, "video_id", row["video_id"], "a row for it, as the label files have"))
        elif row["_merge"] == "left_only":
            faults.append(BadValue(file, at, "video_id", row["video_id"], "a video of the label files"))
        else:
            for name in ("label", "label_id"):
                if row[name] != row[f"{name}_there"]:
                    said = f"{row[f'{name}_there']!r}, as the label files have"
                    faults.append(BadValue(file, at, name, str(row[name]), said))
    return faults


def _by_id(table: pd.DataFrame, name: str) -> dict[str, Any]:
    return dict(zip(list_of(table["video_id"]), list_of(table[name]), strict=True))


def _against_store(settings: Preprocess, ledgers: dict[str, pd.DataFrame]) -> list[str]:
    said = []
    shards = set(os.listdir(settings.store)) if os.path.isdir(settings.store) else set()
    for split, ledger in ledgers.items():
        lost = ledger["video_id"][ledger["status"].eq("ok") & ~ledger["shard"].isin(shards)].tolist()
        if lost:
            said.append(
                f"{split}: {len(lost):,} videos are ok, and their shards are not in {settings.store}: {some(lost)}"
            )
    return said


def _against_disk(settings: Preprocess, ledgers: dict[str, pd.DataFrame], disk: _Disk) -> list[str]:
    said = []
    known: set[str] = set()
    for split, ledger in ledgers.items():
        paths = set(ledger["path"].tolist()) - {""}
        gone = sorted(paths - disk.paths)
        if gone:
            said.append(f"{split}: {len(gone):,} videos are no longer on disk: {', '.join(gone[:5])}")
        known |= paths
    folder = ledger_path(settings, "train").parent
    for path in folder.glob("*.extra.csv"):
        known |= set(pd.read_csv(path, dtype=str, na_filter=False)["path"])
    new = sorted(path for path in disk.paths - known - disk.spare if is_video(path))
    if new:
        said.append(f"{len(new):,} videos on disk are in no ledger and no extra list: {', '.join(new[:5])}")
    return said
