"""Which video file each label row has, and which files no row names."""

from __future__ import annotations

import os
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

_MEND_OUTWARD = (
    "; a symlink out of data_root is not followed: set data_root to the real folder that holds the videos, and "
    "preprocess.labels to label files that lie elsewhere, or mount that folder in place of the symlink (mount --bind)"
)


@dataclass(frozen=True)
class Match:
    """The two sides of the join of label rows and files.

    Attributes:
        paths: one a row, relative to data_root; empty: it has no file.
        reasons: one a row: why a file that is there may not be used; else empty.
        extra: videos that no row uses, sorted: columns split (`other`: its folder does not say), path, reason.
        verdict: the layout in plain words.
        warnings: what is odd but usable.
    """

    paths: list[str]
    reasons: list[str]
    extra: pd.DataFrame
    verdict: list[str]
    warnings: list[str]


def match_videos(labels: Labels, files: Files) -> Match:
    """Match files to the rows of `labels`: by YouTube id and times in Kinetics, else by path."""
    folders = Folders(set(labels.table["label"]))
    joined = _Segments(labels.table, files, folders) if labels.kinetics else _Paths(labels.table, files)
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
        warnings.append(f"{len(files.refused):,} files are refused: {shown}{_MEND_OUTWARD if outward else ''}")
    rows = sorted((folders[os.path.dirname(path)].split or "other", path, why) for path, why in extra)
    table = pd.DataFrame(rows, columns=["split", "path", "reason"], dtype="str")
    counts = Counter(path[: max(path.rfind("/"), 0)] for path in paths if path)
    others = sum(not (path.endswith(ENDINGS) or is_video(path)) for path in files.paths)
    verdict = [*folders.describe(counts), f"videos: {len(table):,} that no label row uses; {others:,} other files"]
    return Match(paths, reasons, table, verdict, warnings)


class _Segments:
    """Rows that name a YouTube segment.

    Of several files for one row the best is used: a replacement, then one in the row's split folder, with times
    in its name, not a symlink, by ending, by path.  The others are extra.
    """

    def __init__(self, table: pd.DataFrame, files: Files, folders: Folders) -> None:
        self._folders, self._files = folders, files
        self._splits, self._labels = table["split"].tolist(), table["label"].tolist()
        self._table = table
        self._rows = {video_id: row for row, video_id in enumerate(table["video_id"].tolist())}
        self.paths: list[str | None] = [None] * len(table)
        self.extra: list[tuple[str, str]] = []
        self._astray: list[str] = []
        for path in files.paths:
            self._place(path)

    @cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        """The rows of each YouTube id; of use only where a file's name is no video_id."""
        rows_of: dict[str, list[int]] = {}
        for row, youtube_id in enumerate(self._table["youtube_id"].tolist()):
            rows_of.setdefault(youtube_id, []).append(row)
        return rows_of

    def _place(self, path: str) -> None:
        """Give a file to its row, or list it as extra."""
        name = path[path.rfind("/") + 1 :]
        row = self._rows.get(name[:-4], -1) if name.endswith(".mp4") else -1  # nearly all of them
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
        better, worse = sorted((before, path), key=lambda one: self._rank(one, row))
        self.paths[row] = better
        if worse not in self._files.links:  # a link to a file that is used is no second copy
            self.extra.append((worse, f"second copy of {better}"))

    def row_of(self, path: str) -> int:
        """The row that a file's name and folder speak of; -1: none, or more than one."""
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
            return f"the label files have its id with other times: {times}"
        return f"its id stands in {len(rows)} label rows ({times}): name it {{youtube_id}}_{{start}}_{{end}}"

    def warnings(self) -> list[str]:
        """Videos in the folder of a class that is not theirs; the label files are believed."""
        astray = []
        folders = [path and path[: max(path.rfind("/"), 0)] for path in self.paths]
        if not any(self._folders[folder].labels for folder in set(folders) if folder):
            return []  # flat, as most copies of Kinetics are
        for row, (path, folder) in enumerate(zip(self.paths, folders, strict=True)):
            if path and folder and self._labels[row]:
                labels = self._folders[folder].labels
                if labels and self._labels[row] not in labels:
                    astray.append(f"{path} is {self._labels[row]!r}")
        said = f"{len(astray):,} videos lie in another class's folder than their label: {some(astray)}"
        return [said] if astray else []


class _Paths:
    """Rows that name a file, relative to data_root or to the split's folder in it."""

    def __init__(self, table: pd.DataFrame, files: Files) -> None:
        there = set(files.paths)
        self.paths: list[str | None] = []
        self._rows: dict[str, int] = {}
        for row, (path, split) in enumerate(zip(table["path"].tolist(), table["split"].tolist(), strict=True)):
            places = (path, f"{split}/{path}")
            self.paths.append(next((place for place in places if place in there), None))
            self._rows.update(dict.fromkeys(places, row))
        used = set(self.paths)
        self.extra = [(path, "in no label file") for path in files.paths if path not in used and is_video(path)]

    def row_of(self, path: str) -> int:
        """The row that names this file; -1: none."""
        return self._rows.get(path, -1)

    def warnings(self) -> list[str]:
        """None: a path says all there is to say."""
        return []


def by_split(extra: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """Extra files of each split, as `<split>.extra.csv` holds them."""
    for split, rows in extra.groupby("split"):
        yield str(split), rows[["path", "reason"]].reset_index(drop=True)
