"""Reads label rows from class folders, for own videos without a CSV.

The folders are `<class>/*.mp4`, or `{train,val,test}/<class>/*.mp4`.  Files in folders below a class folder are of that
class.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.common.tables import InputError
from pipeline.common.text import some
from pipeline.labels.split_words import SPLIT_WORDS


def read_class_folders(videos: Sequence[str], root: str) -> tuple[pd.DataFrame, str, list[str]]:
    """The rows that class folders say.

    Args:
        videos: every video file, relative to data_root.
        root: data_root, for messages.

    Returns:
        Columns path, label, split (empty where folders do not name it); what was recognised, in words; warnings.

    Raises:
        InputError: there are no class folders, or only one.
    """
    split_of_top = _split_folders(videos)
    rows, left_out = [], []
    for path in videos:
        parts = path.split("/")
        split = split_of_top.get(parts[0], "") if len(parts) > 1 else ""
        classes = parts[1:-1] if split else parts[:-1]
        if classes and (split or not split_of_top):
            rows.append((path, classes[0].strip(), split))
        else:
            left_out.append(path)
    table = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object)
    labels = sorted(set(table["label"]))
    if len(labels) < 2:
        _refuse(root, labels, left_out, table)
    if "val" not in set(table["split"]):
        table["split"] = table["split"].where(table["split"].eq("test"), "")  # val is made out of train
    warnings = []
    if left_out:
        warnings.append(f"{len(left_out):,} videos are in no class folder and are left out: {some(left_out)}")
    layout = f"folders {', '.join(sorted(split_of_top))} of " if split_of_top else ""
    return table, f"labels: {root}: {layout}{len(labels):,} class folders; {len(table):,} videos", warnings


def _split_folders(videos: Sequence[str]) -> dict[str, str]:
    """The split of each top folder that is one; empty in a folder of classes, one of which may be called `train`."""
    direct: dict[str, bool] = {}
    for path in videos:
        top, slash, rest = path.partition("/")
        if slash:
            direct[top] = direct.get(top, False) or "/" not in rest
    words = {top: SPLIT_WORDS[top.lower()] for top in direct if top.lower() in SPLIT_WORDS}
    splits = set(words.values())
    nested = any(not direct[top] for top in words)
    whole = len(splits) > 1 or len(direct) == 1
    return words if "train" in splits and nested and whole else {}


def _refuse(root: str, labels: list[str], left_out: list[str], table: pd.DataFrame) -> None:
    expected = "expected DATA/<class>/*.mp4 with at least 2 classes, DATA/{train,val}/<class>/*.mp4, or a label CSV"
    if not labels:
        raise InputError(f"{root}: {len(left_out):,} videos, none in a class folder ({some(left_out, 1)}); {expected}.")
    below = {path.split("/")[-2] for path in table["path"]} - {labels[0]}
    hint = f" Its {len(below):,} subfolders may be the classes: give that folder as DATA." if len(below) > 1 else ""
    raise InputError(f"{root}: all {len(table):,} videos are in one class folder, {labels[0]!r}; {expected}.{hint}")
