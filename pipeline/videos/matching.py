"""Matches video files to label rows, and lists the files that no row uses."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from pipeline.common.text import some
from pipeline.labels.label_files import Labels
from pipeline.videos.folders import Folder, Folders
from pipeline.videos.names import ENDINGS, is_video, segment_of
from pipeline.videos.scan import OUTWARD, Files

_FIX_OUTWARD = (
    ". Symlinks out of data_root are not followed. Set data_root to the real folder of the videos, and "
    "preprocess.labels to label files in other folders; or mount that folder in place of the symlink (mount --bind)."
)


@dataclass(frozen=True)
class Match:
    """Which file each label row has, and the files left over.

    Attributes:
        paths: for each row its file, relative to data_root; empty: none.
        reasons: for each row why its file cannot be used; empty otherwise.
        extra: videos that no row uses, sorted: columns split (`other`: unknown from its folder), path, reason.
        verdict: the folders in words.
        warnings: what is unusual but usable.
    """

    paths: list[str]
    reasons: list[str]
    extra: pd.DataFrame
    verdict: list[str]
    warnings: list[str]


def match_videos(labels: Labels, files: Files) -> Match:
    """Match files to the rows of `labels`: by YouTube id and times in Kinetics, otherwise by path."""
    folders = Folders(set(labels.table["label"]))
    joined = _Segments(labels.table, files, folders) if labels.kinetics else _Paths(labels.table, files, folders)
    paths = [path or "" for path in joined.paths]
    reasons = [""] * len(paths)
    warnings = joined.warnings()
    extra = joined.extra
    for path, why in files.refused:
        row = joined.row_of(path)
        if row >= 0 and not paths[row]:
            reasons[row] = why
        extra.append((path, why))
    if files.refused:
        shown = some(f"{path} ({why})" for path, why in files.refused)
        outward = any(why == OUTWARD for _, why in files.refused)
        warnings.append(f"{len(files.refused):,} files cannot be used: {shown}{_FIX_OUTWARD if outward else ''}")
    rows = sorted((folders[os.path.dirname(path)].split or "other", path, why) for path, why in extra)
    table = pd.DataFrame(rows, columns=["split", "path", "reason"], dtype="str")
    counts = Counter(path[: max(path.rfind("/"), 0)] for path in paths if path)
    others = sum(not (path.endswith(ENDINGS) or is_video(path)) for path in files.paths)
    verdict = [*folders.describe(counts), f"videos: {len(table):,} without a label row; {others:,} other files"]
    return Match(paths, reasons, table, verdict, warnings)


class _Segments:
    """Files of rows that name a YouTube segment.

    If a row has several files, the best is used and the others are extra.  A replacement is best; then one in the row's
    split folder; then one with times in its name; then one that is no symlink; then by ending; then by path.
    """

    def __init__(self, table: pd.DataFrame, files: Files, folders: Folders) -> None:
        self._folders, self._files = folders, files
        self._splits, self._labels = table["split"].tolist(), table["label"].tolist()
        self._table = table
        self._rows = {video_id: row for row, video_id in enumerate(table["video_id"].tolist())}
        self.paths: list[str | None] = [None] * len(table)
        self.extra: list[tuple[str, str]] = []
        for path in files.paths:
            self._place(path)

    @cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """The rows of each YouTube id; needed only for a file whose name is not a video_id."""
        rows_of: dict[str, list[int]] = {}
        for row, youtube_id in enumerate(self._table["youtube_id"].tolist()):
            rows_of.setdefault(youtube_id, []).append(row)
        return rows_of

    def _place(self, path: str) -> None:
        """Give a file to its row, or list it as extra."""
        name = path[path.rfind("/") + 1 :]
        row = self._rows.get(name[:-4], -1) if name.endswith(".mp4") else -1  # fast, and nearly all files
        if row < 0:
            if not is_video(path):
                return
            row = self.row_of(path)
            if row < 0:
                self.extra.append((path, self._why_none(path)))
                return
        before = self.paths[row]
        if before is None:
            self.paths[row] = path
            return
        better, worse = sorted((before, path), key=lambda candidate: self._rank(candidate, row))
        self.paths[row] = better
        if worse not in self._files.links:  # a link to the file that is used is not a copy
            self.extra.append((worse, f"second copy of {better}"))

    def row_of(self, path: str) -> int:
        """The row that fits a file's name and folder; -1: none, or more than one."""
        video_id, youtube_id = segment_of(path)
        if video_id:
            return self._rows.get(video_id, -1)
        rows = self._rows_of.get(youtube_id, [])
        if len(rows) > 1:
            folder = self._folders[os.path.dirname(path)]
            rows = [row for row in rows if self._fits(row, folder)]
        return rows[0] if len(rows) == 1 else -1

    def _fits(self, row: int, folder: Folder) -> bool:
        return folder.split in ("", self._splits[row]) and (not folder.labels or self._labels[row] in folder.labels)

    def _rank(self, path: str, row: int) -> tuple:
        folder, name = self._folders[os.path.dirname(path)], os.path.basename(path)
        stem, ending = os.path.splitext(name)
        order = ENDINGS.index(ending.lower()) if ending.lower() in ENDINGS else len(ENDINGS)
        elsewhere = folder.split != self._splits[row]
        return (not folder.replaces, elsewhere, len(stem) <= 11, path in self._files.links, order, path)

    def _why_none(self, path: str) -> str:
        video_id, youtube_id = segment_of(path)
        rows = self._rows_of.get(youtube_id, [])
        if not youtube_id:
            return "not named {youtube_id}_{start}_{end}"
        if not rows:
            return "in no label file"
        spans = self._table.loc[rows, ["time_start", "time_end"]].to_numpy().tolist()
        times = ", ".join(f"{start}-{end}" for start, end in spans)
        if video_id:
            return f"label files have this id with other times: {times}"
        return f"{len(rows)} label rows have this id ({times}): rename it to {{youtube_id}}_{{start}}_{{end}}"

    def warnings(self) -> list[str]:
        """A warning for videos in another class's folder; the label in the label file is used."""
        return _astray(self.paths, self._labels, self._folders)


class _Paths:
    """Files of rows that name a file, relative to data_root or to the split's folder in it.

    Names that are equal but for their Unicode form are one name: macOS writes `é` as two characters.
    """

    def __init__(self, table: pd.DataFrame, files: Files, folders: Folders) -> None:
        existing = set(files.paths)
        self._folders, self._labels = folders, table["label"].tolist()
        self.paths: list[str | None] = []
        self._rows: dict[str, int] = {}
        self._other_form: list[str] = []
        for row, (path, split) in enumerate(zip(table["path"].tolist(), table["split"].tolist(), strict=True)):
            places = (path, f"{split}/{path}")
            self.paths.append(next((place for place in places if place in existing), None))
            self._rows.update(dict.fromkeys(places, row))
        used = set(self.paths)
        self.extra = [(path, "in no label file") for path in files.paths if path not in used and is_video(path)]
        if self.extra and None in self.paths:
            self._match_other_forms()

    def _match_other_forms(self) -> None:
        """Give rows without a file those left over whose names have another Unicode form."""
        lacking = ((place, row) for place, row in self._rows.items() if self.paths[row] is None)
        rows = {unicodedata.normalize("NFC", place): row for place, row in lacking}
        left = []
        for path, why in self.extra:
            row = rows.get(unicodedata.normalize("NFC", path), -1)
            if row >= 0 and self.paths[row] is None:
                self.paths[row] = path
                self._other_form.append(path)
            else:
                left.append((path, why))
        self.extra = left

    def row_of(self, path: str) -> int:
        """The row that names this file; -1: none."""
        return self._rows.get(path, -1)

    def warnings(self) -> list[str]:
        """Warnings for names in another Unicode form, and for videos in another class's folder."""
        warned = _astray(self.paths, self._labels, self._folders)
        if self._other_form:
            warned.append(
                f"{len(self._other_form):,} file names have another Unicode form than in the label file, and are "
                f"taken as the same: {some(self._other_form)}"
            )
        return warned


def _astray(paths: list[str | None], labels: list[str], folders: Folders) -> list[str]:
    """A warning for videos that lie in the folder of another class than their label's; one for all of them.

    A folder is one of a class if its name, or that of a folder above it, can mean a label.
    """
    classes: dict[str, frozenset[str]] = {}
    for path in paths:
        folder = path[: max(path.rfind("/"), 0)] if path else ""
        if folder not in classes:
            parts = folder.split("/")
            classes[folder] = frozenset().union(*(folders.labels_of(part) for part in parts))
    if not any(classes.values()):
        return []  # flat, as most copies of Kinetics are
    astray, inside = [], 0
    for path, label in zip(paths, labels, strict=True):
        known = classes[path[: max(path.rfind("/"), 0)]] if path else None
        if known and label:
            inside += 1
            if label not in known:
                astray.append(f"{path} is {label!r}")
    if not astray:
        return []
    hint = ". If the list counts from 1, its numbers are off by one" if len(astray) > inside // 2 else ""
    return [
        f"{len(astray):,} of {inside:,} videos are in another class's folder than their label file says: "
        f"{some(astray)}{hint}"
    ]


def by_split(extra: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """Extra files of each split, in the columns of `<split>.extra.csv`."""
    for split, rows in extra.groupby("split"):
        yield str(split), rows[["path", "reason"]].reset_index(drop=True)
