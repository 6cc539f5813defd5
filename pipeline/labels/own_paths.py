"""Brings the paths of own label files into the form of the files on disk: relative to data_root, with `/`.

Lists come from other machines: with absolute paths, Windows separators, a folder more or less, or without an ending.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from collections.abc import Sequence

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError

_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")
_SEARCHED = 2000  # files among which the nearest name is searched


class OwnPaths:
    """Rewrites paths so that they are those of files on disk.

    Args:
        settings: `data_root`.
        videos: every video file, relative to data_root; empty: the paths are checked against nothing.

    Attributes:
        lines: what was changed, in words.
        hint: which file was looked for first, and which is nearest, if no path of a label file is on disk.
    """

    def __init__(self, settings: Preprocess, videos: Sequence[str]) -> None:
        self._root = settings.data_root
        self._places = [f"{os.path.abspath(self._root)}/", f"{os.path.realpath(self._root)}/"]
        self._videos = videos
        self._existing = set(videos)
        self._folders: dict[str, str] = {}
        self._stems: dict[str, str] | None = None
        self.lines: list[str] = []
        self.hint = ""

    def relative(self, paths: list[str], splits: list[str], file: str, rows: list[int]) -> list[str]:
        """The paths of one label file as they are on disk; those that are not there are only tidied.

        Raises:
            InputError: all are absolute, and none is in data_root; it names the nearest file there.
        """
        if any("\\" in path for path in paths):  # no file with a backslash in its name can be used (scan.py)
            paths = [path.replace("\\", "/") for path in paths]
            self.lines.append(f"paths: {file}: \\ is read as /")
        paths = [self._below_root(posixpath.normpath(path.strip())) if path.strip() else "" for path in paths]
        if not self._existing or any(self._there(path, split) for path, split in zip(paths, splits, strict=True)):
            return paths
        found = [self._of_stem(path, split) for path, split in zip(paths, splits, strict=True)]
        if any(found):
            self.lines.append(f"paths: {file}: names without the ending of their file, such as {found[0] or paths[0]}")
            return [new or path for new, path in zip(found, paths, strict=True)]
        first = next((row for row, path in enumerate(paths) if path), None)
        if first is None:
            return paths
        drop, add = self._shift(paths[first])
        if not drop and not add:
            self.hint = (
                f"{file}:{rows[first]}: looked for {os.path.join(self._root, paths[first])}, and none of the "
                f"{len(paths):,} paths of this file is there. The nearest file is {self._nearest(paths[first])}."
            )
            if all(_ABSOLUTE.match(path) for path in paths if path):  # relative ones may be in shards
                raise InputError(f"{self.hint} Set data_root to the folder that the paths begin in.")
            return paths
        instead = f"{drop} is left out" if drop else f"{add} is added"
        self.lines.append(f"paths: {file}: {instead} at the beginning, because the files are there")
        moved = [path.removeprefix(drop) if drop else add + path for path in paths]
        return [new if new in self._existing else self._of_stem(new, "") or new for new in moved]

    def _there(self, path: str, split: str) -> bool:
        return path in self._existing or f"{split}/{path}" in self._existing

    def _below_root(self, path: str) -> str:
        """An absolute path relative to data_root, if it is in it, also through symlinks."""
        if not _ABSOLUTE.match(path) or not self._root:
            return path
        for place in self._places:
            if path.startswith(place):
                return path[len(place) :]
        folder, name = posixpath.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder) + "/"
        real = self._folders[folder] + name
        return real[len(self._places[-1]) :] if real.startswith(self._places[-1]) else path

    def _of_stem(self, path: str, split: str) -> str:
        """The only file that has this path and an ending; empty: none."""
        if self._stems is None:
            self._stems = {}
            for video in self._videos:
                stem = posixpath.splitext(video)[0]
                self._stems[stem] = "" if stem in self._stems else video
        return self._stems.get(path) or self._stems.get(f"{split}/{path}") or ""

    def _shift(self, path: str) -> tuple[str, str]:
        """What must be left out at the beginning of a path, or added, to get that of a file; both empty: neither."""
        parts = path.split("/")
        for number in range(1, len(parts)):
            rest = "/".join(parts[number:])
            if rest in self._existing or self._of_stem(rest, ""):
                return "/".join(parts[:number]) + "/", ""
        stem = "/" + path.lstrip("/")
        ends = [video for video in self._videos if video.endswith(stem) or posixpath.splitext(video)[0].endswith(stem)]
        return "", ends[0][: ends[0].rindex(stem) + 1] if len(ends) == 1 else ""

    def _nearest(self, path: str) -> str:
        """The file whose name is most like that of `path`."""
        name = posixpath.basename(path)
        same = [video for video in self._videos if posixpath.basename(video) == name]
        names = {posixpath.basename(video): video for video in self._videos[:_SEARCHED]}
        close = difflib.get_close_matches(name, names, n=1, cutoff=0)
        return same[0] if same else names[close[0]]
