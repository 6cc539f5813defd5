"""Reads from the name of a folder the split and class of its videos, and whether they are replacements.

Class folders are named by labels with spaces, with underscores, or as torchvision names them, without `'()`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.labels.split_words import split_of

_TORCHVISION = str.maketrans(" ", "_", "'()")


@dataclass(frozen=True)
class Folder:
    """What the name of a folder says about the videos in it.

    Attributes:
        split: train, val or test; empty: unknown.
        replaces: whether they replace corrupted files of other folders (CVDF's replacement videos).
        labels: the labels that its name can mean; empty: it is not a class folder.
    """

    split: str
    replaces: bool
    labels: frozenset[str]


class Folders:
    """What each folder says, by its path; each name is read once.

    Args:
        labels: all labels of the dataset.
    """

    def __init__(self, labels: set[str]) -> None:
        self._labels: dict[str, set[str]] = {}
        for label in labels - {""}:
            for name in (label, label.replace(" ", "_"), label.translate(_TORCHVISION)):
                self._labels.setdefault(name, set()).add(label)
        self._known: dict[str, Folder] = {}

    def __getitem__(self, path: str) -> Folder:
        """What the folder `path`, relative to data_root, says."""
        if path not in self._known:
            parts = path.split("/")
            labels = frozenset(self._labels.get(parts[-1], ()))
            above = parts[:-1] if labels else parts  # a class can be called `training dog`
            split = next((split for part in above if (split := split_of(part))), "")
            self._known[path] = Folder(split, any(part.lower().startswith("replacement") for part in above), labels)
        return self._known[path]

    def labels_of(self, name: str) -> frozenset[str]:
        """The labels that the name of a folder can mean, whatever is above it."""
        return frozenset(self._labels.get(name, ()))

    def describe(self, counts: dict[str, int]) -> list[str]:
        """A line for each top folder: how many videos, and in what kind of folders.

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
        """How labels are written in the names of class folders."""
        if any(" " in name for name in names):
            return "labels with spaces"
        quoted = {name for name in names if set("'()") & set("".join(self._labels[name]))}
        if any(not set("'()") & set(name) for name in quoted):
            return "torchvision's: underscores, without '()"
        return "labels with underscores" if any("_" in name for name in names) else "one-word labels"
