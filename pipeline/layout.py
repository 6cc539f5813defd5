"""Which files a data_root holds: a listing that never leaves it, and what a file's name and folder say.

Only names are read here; nothing is opened.  A video is `{youtube_id}_{start}_{end}` or bare `{youtube_id}`,
with one of ENDINGS or none, wherever it lies: flat or in class folders (labels with spaces, with underscores, or
torchvision's without `'()`), under split folders or not.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.video_id import ID_PATTERN
from pipeline.labels.split_words import split_of

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")  # in order of preference
OUTWARD = "symlink out of data_root"
_SEGMENT = re.compile(rf"({ID_PATTERN})_(\d+)(?:\.\d+)?_(\d+)(?:\.\d+)?")
_BARE = re.compile(ID_PATTERN)
_ODD = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")  # control characters, backslash, bytes that are not UTF-8
_TORCHVISION = str.maketrans(" ", "_", "'()")


@dataclass(frozen=True)
class Files:
    """What a folder holds.

    Attributes:
        paths: every file, relative to the folder, with forward slashes, sorted.
        links: those of `paths` that are, or are reached through, symlinks.
        refused: files that may not be used, and why.
    """

    paths: list[str]
    links: frozenset[str]
    refused: list[tuple[str, str]]


def scan(root: Path) -> Files:
    """List every file under `root`, following symlinks only where they stay inside it.

    Raises:
        OSError: a folder cannot be read.
    """
    real_root = os.path.realpath(root)
    plain, links = _walk("", real_root)
    paths, refused = plain, []
    linked: set[str] = set()
    followed: set[str] = set()
    while links:
        links.sort(reverse=True)  # by name, so that the answer does not hang on the order of the directory
        path, place = links.pop()
        real = os.path.realpath(place)
        if not os.path.exists(real):
            refused.append((path, "symlink to nothing"))
        elif not f"{real}/".startswith(f"{real_root}/"):
            refused.append((path, OUTWARD))
        elif not os.path.isdir(real) or "." in path and segment(path)[1]:
            linked.add(path)
        elif real not in followed and not f"{place}/".startswith(f"{real}/"):
            followed.add(real)  # once each, so that links in a ring end
            more, deeper = _walk(f"{path}/", real)
            linked.update(more)
            links += deeper
    paths += linked
    odd = {path for path in paths if _ODD.search(path)} if _ODD.search("".join(paths)) else set()
    refused += [(path, "its name has characters that a ledger cannot hold") for path in odd]
    refused = sorted((ascii(path)[1:-1] if _ODD.search(path) else path, why) for path, why in refused)
    return Files(sorted(path for path in paths if path not in odd), frozenset(linked - odd), refused)


def _walk(prefix: str, folder: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Files below a folder without following symlinks; and the symlinks, each with its place on the disk.

    What has a video's name and is no file (a FIFO, a folder) is among them: decoding says so, `missing` would not.
    """
    files: list[str] = []
    links: list[tuple[str, str]] = []
    folders = [(prefix, folder)]
    while folders:
        prefix, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if entry.is_file(follow_symlinks=False):
                    files.append(prefix + entry.name)
                elif entry.is_dir(follow_symlinks=False) and not ("." in entry.name and segment(entry.name)[1]):
                    folders.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_symlink():
                    links.append((prefix + entry.name, entry.path))
                else:
                    files.append(prefix + entry.name)
    return files, links


def segment(path: str) -> tuple[str, str]:
    """(video_id, youtube_id) that a video's name speaks of; a bare id has no video_id; ('', '') when neither."""
    name = path[path.rfind("/") + 1 :]
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem = name
    elif f".{ending.lower()}" not in ENDINGS:
        return "", ""
    match = _SEGMENT.fullmatch(stem)
    if match:
        return f"{match[1]}_{int(match[2]):06d}_{int(match[3]):06d}", match[1]
    return "", stem if _BARE.fullmatch(stem) else ""


def is_video(path: str) -> bool:
    """Whether a name is a video's: one of ENDINGS, or no ending and a segment's name (not `README`)."""
    ending = os.path.splitext(path)[1].lower()
    return ending in ENDINGS if ending else bool(segment(path)[1])


@dataclass(frozen=True)
class Folder:
    """What the name of a folder says of the videos in it.

    Attributes:
        split: train, val or test; empty when it does not say.
        replaces: whether these stand in for corrupt files elsewhere (CVDF's replacement videos).
        labels: those its name may mean; empty when it is no class folder.
    """

    split: str
    replaces: bool
    labels: frozenset[str]


class Folders:
    """Folder names read once each, in the light of the labels there are."""

    def __init__(self, labels: set[str]) -> None:
        self._labels: dict[str, set[str]] = {}
        for label in labels - {""}:
            for name in (label, label.replace(" ", "_"), label.translate(_TORCHVISION)):
                self._labels.setdefault(name, set()).add(label)
        self._known: dict[str, Folder] = {}

    def __getitem__(self, path: str) -> Folder:
        """What `path`, relative to data_root, says."""
        if path not in self._known:
            parts = path.split("/")
            labels = frozenset(self._labels.get(parts[-1], ()))
            above = parts[:-1] if labels else parts  # a class may be called `training dog`
            split = next((split for part in above if (split := split_of(part))), "")
            self._known[path] = Folder(split, any(part.lower().startswith("replacement") for part in above), labels)
        return self._known[path]

    def describe(self, counts: dict[str, int]) -> list[str]:
        """The layout in plain words: for each top folder how many videos, and in what kind of folders.

        Args:
            counts: number of videos by folder.
        """
        lines = []
        tops: dict[str, dict[str, int]] = {}
        for path, count in counts.items():
            top = path if not self[path].labels else os.path.dirname(path)
            tops.setdefault(top, {})[path] = count
        for top, inside in sorted(tops.items()):
            classes = {os.path.basename(path) for path in inside if self[path].labels}
            kind = f"{len(classes):,} class folders ({self._style(classes)})" if classes else "flat"
            if classes and top in inside:
                kind += f" and {inside[top]:,} flat"
            replaces = ", replacement videos" if self[top].replaces else ""
            lines.append(f"videos: {top or '.'}/: {sum(inside.values()):,}, {kind}{replaces}")
        return lines

    def _style(self, names: set[str]) -> str:
        """How class folders write their labels."""
        if any(" " in name for name in names):
            return "labels with spaces"
        quoted = {name for name in names if set("'()") & set("".join(self._labels[name]))}
        if any(not set("'()") & set(name) for name in quoted):
            return "torchvision's: underscores, without '()"
        return "labels with underscores" if any("_" in name for name in names) else "one-word labels"
