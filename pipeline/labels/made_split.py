"""Divides own videos into train and val where nobody has: in each class, by a seed, and never again for the same video.

The division is written as an ordinary label CSV, `<manifests>/<dataset>/labels/videos.csv`, which a person can edit.
Later runs keep each of its rows, and give a split to new videos only.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError
from pipeline.common.text import some


def listing_path(settings: Preprocess) -> Path:
    """`<manifests>/<dataset>/labels/videos.csv`."""
    return Path(settings.manifests) / settings.dataset / "labels" / "videos.csv"


def with_splits(
    table: pd.DataFrame, earlier: pd.DataFrame | None, settings: Preprocess, *, keep_rows: bool
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str], list[str]]:
    """`table` with a split in every row, and those of the earlier listing as they are there.

    Args:
        table: rows of own videos, some without a split.
        earlier: the listing of an earlier run.
        settings: how a split is made.
        keep_rows: keep the rows of the listing with their labels, and add only those of other files to them.

    Returns:
        The table; the listing, if it must be written; what was done, in words; warnings.

    Raises:
        InputError: the listing is one of other videos.
    """
    warned = []
    if earlier is not None:
        rows = {unicodedata.normalize("NFC", path): row for row, path in enumerate(earlier["path"])}
        known = np.array([rows.get(unicodedata.normalize("NFC", path), -1) for path in table["path"]], dtype="int64")
        if keep_rows:
            warned = _lost(earlier, known, settings)
            table = pd.concat([earlier, table[known < 0]], ignore_index=True)
        else:
            table = table.assign(split=np.where(known >= 0, earlier["split"].to_numpy(object)[known], table["split"]))
    splits, lines, more = fill_splits(table, settings)
    table = table.assign(split=pd.Series(splits, index=table.index, dtype=object))
    names = ["path", "label", "split", *(["number"] if table["number"].ge(0).any() else [])]
    listing = table[names].rename(columns={"number": "label_id"}).reset_index(drop=True)
    before = None if earlier is None else earlier[names].rename(columns={"number": "label_id"}).reset_index(drop=True)
    same = before is not None and listing.astype(object).equals(before.astype(object))
    return table, None if same else listing, lines, [*warned, *more]


def _lost(earlier: pd.DataFrame, known: np.ndarray, settings: Preprocess) -> list[str]:
    """A warning for rows of the listing whose file is not on disk."""
    listed = listing_path(settings)
    if not (known >= 0).any():
        raise InputError(
            f"{listed}: none of its {len(earlier):,} videos is in {settings.data_root}. If these are other videos, set "
            "another preprocess.dataset (make: NAME=). Otherwise remove this file."
        )
    gone = np.setdiff1d(np.arange(len(earlier)), known)
    if not len(gone):
        return []
    return [
        f"{len(gone):,} videos of {listed} are not on disk: {some(earlier['path'].iloc[gone])}. Remove the rows of "
        "files that were moved or renamed, and keep those that are stored."
    ]


def fill_splits(table: pd.DataFrame, settings: Preprocess) -> tuple[list[str], list[str], list[str]]:
    """A split for each row that has none.

    Args:
        table: columns path, label, split; an empty split is filled, every other one stays.
        settings: `val_fraction`, `group_by` and `seed`.

    Returns:
        The split of each row; what was done, in words; and warnings.
    """
    paths, labels, splits = (table[name].tolist() for name in ("path", "label", "split"))
    new = [row for row, split in enumerate(splits) if not split]
    if not new:
        return splits, [], []
    keys = _recordings(paths, settings.group_by)
    side = {key: split for key, split in zip(keys, splits, strict=True) if split in ("train", "val")}
    total = Counter(label for label, split in zip(labels, splits, strict=True) if split != "test")
    target = {label: _target(count, settings.val_fraction) for label, count in total.items()}
    in_val = Counter(label for label, split in zip(labels, splits, strict=True) if split == "val")
    groups: dict[str, list[int]] = {}
    for row in new:
        groups.setdefault(keys[row], []).append(row)
    for key in sorted(groups, key=lambda key: _drawn(settings.seed, key)):
        label = labels[groups[key][0]]
        if len(groups[key]) == 1:  # as most are, and this is fast
            counts, fits = {label: 1}, in_val[label] < target[label]
        else:
            counts = Counter(labels[row] for row in groups[key])
            fits = all(in_val[label] + count <= target[label] for label, count in counts.items())
        if side.setdefault(key, "val" if fits else "train") == "val":
            in_val.update(counts)
    _one_recording_at_least(groups, side, labels, total, in_val, target)
    for row in new:
        splits[row] = side[keys[row]]
    counted = Counter(splits[row] for row in new)
    done = [
        f"split: {len(new):,} videos had none, so {counted['val']:,} went to val and {counted['train']:,} to train "
        f"(preprocess.val_fraction {settings.val_fraction:g}, preprocess.seed {settings.seed}). "
        f"Edit {listing_path(settings)} to change it."
    ]
    if not settings.group_by:
        done += _pieces([paths[row] for row in new])
    return splits, done, _without_val(total, in_val, settings.val_fraction)


def _target(count: int, fraction: float) -> int:
    """How many of the videos of a class go to val: at least one of two, and never all."""
    return min(max(round(count * fraction), 1), count - 1) if fraction else 0


def _drawn(seed: int, key: str) -> bytes:
    """A random number of a recording that does not depend on which others there are."""
    return hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=8).digest()


def _recordings(paths: list[str], group_by: str) -> list[str]:
    """The recording of each path; its own, where `group_by` finds none."""
    if not group_by:
        return paths
    search = re.compile(group_by).search
    matches = [search(path) for path in paths]
    return [
        path if match is None else f"recording {match.group(1 if match.re.groups else 0)}"
        for path, match in zip(paths, matches, strict=True)
    ]


def _one_recording_at_least(
    groups: dict[str, list[int]],
    side: dict[str, str],
    labels: list[str],
    total: Counter[str],
    in_val: Counter[str],
    target: dict[str, int],
) -> None:
    """Move the smallest recording of each class that has none in val, if train keeps one of all its classes."""
    lacking = {label for label, wanted in target.items() if wanted and not in_val[label]}
    if not lacking:
        return
    for key in sorted(groups, key=lambda key: (len(groups[key]), key)):
        counts = Counter(labels[row] for row in groups[key])
        useful = side[key] == "train" and any(label in lacking and not in_val[label] for label in counts)
        if useful and all(in_val[label] + count < total[label] for label, count in counts.items()):
            side[key] = "val"
            in_val.update(counts)


def _pieces(paths: Iterable[str]) -> list[str]:
    """A line if names look like numbered pieces of longer recordings."""
    recordings: dict[str, list[str]] = {}
    for path in paths:
        stem = path.rsplit(".", 1)[0]
        recording = stem.rstrip("0123456789")  # `match1_` of `match1_003`
        if recording != stem and any(map(str.isalpha, recording[recording.rfind("/") + 1 :])):
            recordings.setdefault(recording, []).append(path)
    several = [names for names in recordings.values() if len(names) > 1]
    if not several:
        return []
    return [
        f"split: {sum(map(len, several)):,} names look like pieces of {len(several):,} recordings, such as "
        f"{some(several[0][:2])}. If they are, set preprocess.group_by, which keeps them on one side."
    ]


def _without_val(total: Counter[str], in_val: Counter[str], fraction: float) -> list[str]:
    """A warning that names the classes of which no video could go to val."""
    single = sorted(label for label in total if not in_val[label]) if fraction else []
    if not single:
        return []
    return [f"{len(single):,} classes have one video (or one recording) and are in train only: {some(single, 50)}"]
