"""Reads lists of own videos: a CSV of `path,label`, or lines of `path number`, `path frames number` or `path`.

Lists are those of mmaction2, SlowFast, TimeSformer and UCF101, and HMDB51's, which have a file for each class.
"""

from __future__ import annotations

import posixpath
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from pipeline.common.recipe import SPLITS
from pipeline.common.tables import BadValue, InputError, collect, expect, full_matches, inside, label_checks
from pipeline.common.video_id import ID_PATTERN, video_ids
from pipeline.labels.own_paths import OwnPaths
from pipeline.labels.split_words import SPLIT_RULE, split_of

_LINE = re.compile(r"(.*\S)\s*[\s,;]\s*(-?\d+)\s*")
_WITH_FRAMES = re.compile(r"(.*\S)\s+\d+\s+(\d+)\s*")
_ONLY_PATH = re.compile(r"[^,;]*[/\\][^,;]*\.(?:mp4|mkv|webm|avi|mov)\s*", re.I)
_NAMED = re.compile(rf"({ID_PATTERN})_(\d+)_(\d+)")
_HMDB = re.compile(r"(.+)_test_split\d+")
_HMDB_SPLITS = {1: "train", 2: "test"}  # 0: in neither
# The published divisions of UCF101 and HMDB51 have no val, and their test split is what everybody evaluates on.
_TEST_IS_VAL = re.compile(r"testlist\d+|.+_test_split\d+")


def is_list(line: str) -> bool:
    """Whether a first line is a list's rather than a header."""
    return bool(_LINE.fullmatch(line) or _ONLY_PATH.fullmatch(line))


def is_hmdb_list(path: Path) -> bool:
    """Whether a file is named like HMDB51's `brush_hair_test_split1.txt`."""
    return path.suffix == ".txt" and _HMDB.fullmatch(path.stem) is not None


def read_list(path: Path, encoding: str, bad_values: list[BadValue]) -> tuple[pd.DataFrame, str]:
    """A list as columns path, label (empty: see number), number (-1: none), split, row; and its form in words."""
    try:
        lines = path.read_text(encoding=encoding).split("\n")  # splitlines also ends one at U+2028 within a name
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as text: {error}. Save it as UTF-8.") from None
    rows = [(index, line) for index, line in enumerate(lines, 1) if line.strip()]
    pattern, form = _LINE, "list of path and number"
    if all(_WITH_FRAMES.fullmatch(line) for _, line in rows):
        pattern, form = _WITH_FRAMES, "list of path, frames and number"
    elif not _LINE.fullmatch(rows[0][1]):
        pattern, form = re.compile(r"(.*\S)\s*()"), "list of paths, labelled by their folders"
    matches = [(index, line, pattern.fullmatch(line)) for index, line in rows]
    wrong = [(index, line) for index, line, found in matches if not found]
    bad_values += [BadValue(str(path), index, "line", line, "path number") for index, line in wrong]
    entries = [(index, found[1].strip('"'), int(found[2] or -1)) for index, _, found in matches if found]
    table = pd.DataFrame(entries, columns=["row", "path", "number"])
    table["split"], table["label"] = split_of(path.stem), ""
    if hmdb := _HMDB.fullmatch(path.stem):
        table["split"] = table["number"].map(_HMDB_SPLITS)
        table["path"] = f"{hmdb[1]}/" + table["path"]
        table = table[table["split"].notna()].assign(label=hmdb[1], number=-1).reset_index(drop=True)
        form = "HMDB51's list of a class"
    elif pattern.groups and form.endswith("folders"):
        table["label"] = [name.replace("\\", "/").split("/")[-2] for name in table["path"]]
    if _TEST_IS_VAL.fullmatch(path.stem):
        table["split"] = table["split"].replace("test", "val")
        form += ", whose test split is used as val"
    return table, form


def own_videos(
    raw: pd.DataFrame, paths: OwnPaths, bad_values: list[BadValue], *, from_folders: bool = False
) -> pd.DataFrame:
    """Check rows that name a file; if all files are named like Kinetics segments, the rows are Kinetics rows.

    An empty split is that of the path's first folder; `made_split` makes one where no row has any.

    Args:
        raw: columns path, label, number, split, file, row.
        paths: makes paths relative to data_root.
        bad_values: gets every value that breaks a rule.
        from_folders: the rows are those of class folders, so an empty split is one that is to be made.
    """
    raw = raw.copy()
    if not from_folders:
        file, rows = str(raw["file"].iloc[0]), raw["row"].tolist()
        raw["path"] = paths.relative(raw["path"].tolist(), raw["split"].tolist(), file, rows)
        first = raw["path"].str.split("/").str[0]
        raw["split"] = raw["split"].where(raw["split"].ne("") | ~first.isin(SPLITS), first)
    unlabelled = raw["split"].eq("test")
    unsplit = from_folders or raw["split"].eq("").all()
    rules: dict[str, Any] = {
        "path": expect("a path inside data_root", lambda path: inside(path) & full_matches(r"[^\x00-\x1f]+", path)),
        "label": label_checks(unlabelled),
        "split": expect(SPLIT_RULE, lambda split: split.isin(SPLITS) | split.eq("") & unsplit),
    }
    schema = pa.DataFrameSchema({name: pa.Column(None, rule) for name, rule in rules.items()})
    bad_values += collect(schema, raw, raw["file"].iloc[0], raw["row"].to_list())
    without_ending = [posixpath.splitext(path)[0] for path in raw["path"].tolist()]
    named: list[re.Match[str] | None] = []
    for stem in without_ending:
        named.append(_NAMED.fullmatch(stem[stem.rfind("/") + 1 :]))
        if named[-1] is None:
            break
    table = raw[["label", "number", "split", "file", "row", "path"]].copy()
    if all(named):  # then there is one for each row
        parts = [match.groups() for match in named if match]
        table["youtube_id"] = [name for name, _, _ in parts]
        table["time_start"] = np.array([int(start) for _, start, _ in parts], dtype="int64")
        table["time_end"] = np.array([int(end) for _, _, end in parts], dtype="int64")
        table["video_id"] = video_ids(table["youtube_id"], table["time_start"], table["time_end"])
        rule = "a name whose end time is after its start time"
        backwards = table[table["time_end"].le(table["time_start"])]
        bad_values += [BadValue(row.file, row.row, "path", row.path, rule) for row in backwards.itertuples()]
        return table
    table["youtube_id"], table["time_start"], table["time_end"] = "", 0, 0
    joined = "\0".join(stem.replace("\0", "_") for stem in without_ending)  # all at once, which is fast
    table["video_id"] = re.sub(r"[^\w.\0-]", "_", joined).split("\0")
    return table


def keep_apart(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with a number after each video_id that several files have (`a b.mp4`, `a_b.mp4`, `a_b.avi`).

    All of them get one, so that none takes over the frames that were stored when there was only another.
    """
    clash = table["video_id"].duplicated(keep=False) & table["youtube_id"].eq("")
    if not clash.any():
        return table
    clash &= table.groupby("video_id")["path"].transform("nunique").gt(1)
    rows = table[clash]
    ids = table["video_id"].to_numpy(object, copy=True)
    ids[clash.to_numpy()] = [
        f"{video_id}-{zlib.crc32(path.encode()):08x}"
        for video_id, path in zip(rows["video_id"], rows["path"], strict=True)
    ]
    return table.assign(video_id=ids)
