"""Reads lists of own videos: a CSV of `path,label`, or lines of `path label_id`.

Lists of the second form (mmaction2's, PySlowFast's) have numbers only.  The names come from zjut_mindvideo's
`cls2index.json` or a `label_map*.txt` (mmaction2's: line i names class i) beside the list or in data_root.  Without
one, Kinetics-400's come from its frozen list, and any others are named `class_0007`.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import BadValue, InputError, collect, expect, full_matches, inside
from pipeline.common.video_id import ID_PATTERN, video_ids
from pipeline.labels.class_ids import KINETICS400, read_class_list
from pipeline.labels.split_words import SPLIT_RULE

_LINE = re.compile(r"(.*\S)\s*[\s,;]\s*(-?\d+)\s*")
_NAMED = re.compile(rf"({ID_PATTERN})_(\d+)_(\d+)")


def is_list(line: str) -> bool:
    """Whether a first line is `path label_id` rather than a header."""
    return _LINE.fullmatch(line) is not None


def read_list(path: Path, encoding: str, settings: Preprocess, bad_values: list[BadValue]) -> tuple[pd.DataFrame, str]:
    """A list of `path label_id` as columns path, label, row; and its form in words."""
    try:
        lines = path.read_text(encoding=encoding).splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as text: {error}. Save it as UTF-8.") from None
    rows = [(index, line) for index, line in enumerate(lines, 1) if line.strip()]
    matches = [(index, line, _LINE.fullmatch(line)) for index, line in rows]
    bad_values += [
        BadValue(str(path), index, "line", line, "path label_id") for index, line, match in matches if not match
    ]
    entries = [(index, match.group(1).strip('"'), int(match.group(2))) for index, _, match in matches if match]
    names, source = _names(path, settings)
    labels = []
    for index, _, label_id in entries:
        if names is None:
            labels.append(f"class_{label_id:04d}")
        elif label_id in names:
            labels.append(names[label_id])
        else:
            bad_values.append(BadValue(str(path), index, "label_id", str(label_id), f"an id of {source}"))
            labels.append("?")
    table = pd.DataFrame(
        {"path": [name for _, name, _ in entries], "label": labels, "row": [index for index, _, _ in entries]}
    )
    return table, f"list of path and label_id, {len(set(labels))} classes named by {source}"


def own_videos(
    raw: pd.DataFrame, settings: Preprocess, bad_values: list[BadValue], *, from_folders: bool = False
) -> pd.DataFrame:
    """Check rows that name a file; if all files are named like Kinetics segments, the rows are Kinetics rows.

    An empty split is that of the path's first folder; `made_split` makes one where no row has any.

    Args:
        raw: columns path, label, split, file, row.
        settings: where the videos are.
        bad_values: gets every value that breaks a rule.
        from_folders: the rows are those of class folders, so an empty split is one that is to be made.
    """
    root = str(Path(settings.data_root).resolve()) + "/"
    raw = raw.copy()
    raw["path"] = [posixpath.normpath(path.strip().removeprefix(root)) if path.strip() else "" for path in raw["path"]]
    if not from_folders:
        first = raw["path"].str.split("/").str[0]
        raw["split"] = raw["split"].where(raw["split"].ne("") | ~first.isin(SPLITS), first)
    unlabelled = raw["split"].eq("test")
    unsplit = from_folders or raw["split"].eq("").all()
    rules = {
        "path": expect("a path inside data_root", lambda path: inside(path) & full_matches(r"[^\x00-\x1f]+", path)),
        "label": expect("a label", lambda label: label.ne("") | unlabelled),
        "split": expect(SPLIT_RULE, lambda split: split.isin(SPLITS) | split.eq("") & unsplit),
    }
    schema = pa.DataFrameSchema({name: pa.Column(None, rule) for name, rule in rules.items()})
    bad_values += collect(schema, raw, raw["file"].iloc[0], raw["row"].to_list())
    stems = [posixpath.splitext(posixpath.basename(path))[0] for path in raw["path"]]
    named = [_NAMED.fullmatch(stem) for stem in stems]
    table = raw[["label", "split", "file", "row", "path"]].copy()
    if all(named):
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
    table["video_id"] = [re.sub(r"[^\w.-]", "_", posixpath.splitext(path)[0]) for path in table["path"]]
    _one_file_an_id(table, bad_values)
    return table


def _one_file_an_id(table: pd.DataFrame, bad_values: list[BadValue]) -> None:
    """Two paths with the same video_id (`a b.mp4`, `a_b.mp4`) cannot both be stored."""
    clash = table[table["video_id"].duplicated(keep=False)]
    for video_id, rows in clash.groupby("video_id"):
        if rows["path"].nunique() > 1:
            rule = f"a path whose video_id ({video_id}) no other file has; rename one of the files"
            bad_values += [BadValue(row.file, row.row, "path", row.path, rule) for row in rows.itertuples()]


def _names(path: Path, settings: Preprocess) -> tuple[dict[int, str] | None, str]:
    """The label of each label_id of a list (None: unknown), and the file that names them."""
    for folder in (path.parent, Path(settings.data_root)):
        if (folder / "cls2index.json").is_file():
            source = folder / "cls2index.json"
            return {index: label for label, index in _index_of(source).items()}, str(source)
        for source in sorted(folder.glob("label_map*.txt")):
            return dict(enumerate(source.read_text(encoding="utf-8-sig").splitlines())), str(source)
    if settings.dataset == "kinetics400":
        return dict(enumerate(read_class_list(KINETICS400))), KINETICS400.name
    return None, "number (no cls2index.json or label_map*.txt beside the list)"


def _index_of(path: Path) -> dict[str, int]:
    """A `cls2index.json`: label -> its number there."""
    try:
        index_of = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}. Fix or remove it.") from None
    if not isinstance(index_of, dict) or not all(isinstance(index, int) for index in index_of.values()):
        raise InputError(f"{path}: not a JSON object of label: number. Fix or remove it.")
    return index_of


def other_numbering(settings: Preprocess, table: pd.DataFrame) -> list[str]:
    """A warning if a `cls2index.json` in data_root (zjut_mindvideo writes one) numbers classes differently."""
    path = Path(settings.data_root) / "cls2index.json"
    if not path.is_file():
        return []
    index_of = _index_of(path)
    ours = dict(zip(table["label"], table["label_id"], strict=True))
    differing = [label for label in sorted(index_of) if label in ours and ours[label] != index_of[label]]
    if not differing:
        return []
    first = differing[0]
    example = f"{first!r} is {index_of[first]} there and {ours[first]} here"
    return [f"{path} numbers {len(differing)} classes differently ({example}). Do not use checkpoints made with it."]
