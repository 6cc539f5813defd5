"""Chooses a stratified subset of a dataset, which becomes a new dataset: `--classes 20 --per-class 50 --seed 0`.

Its label files are written to `<manifests>/<name>/labels/`, and the usual build reads them.  Class numbers are the
parent's (`labels/classes.csv`), so that a checkpoint means the same on both.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pandas as pd

from pipeline.common.files import sync_folder
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError, write_table
from pipeline.ledger.coverage import USABLE
from pipeline.ledger.table import class_names, ledger_folder


def choose_subset(
    ledgers: dict[str, pd.DataFrame], num_classes: int | None, per_class: int | None, seed: int
) -> dict[str, pd.DataFrame]:
    """Rows of some classes, the same classes in every split; splits without labels are left out.

    The videos of a class do not depend on `num_classes`, and a larger `per_class` includes those of a smaller one.

    Args:
        ledgers: by split.
        num_classes: None: all.
        per_class: at most so many usable videos of each class in each split; None: all.
        seed: random seed of the classes and of the videos.

    Raises:
        InputError: the dataset has fewer classes with usable videos.
    """
    usable = {
        split: ledger[ledger["status"].isin(USABLE) & ledger["label_id"].ge(0)] for split, ledger in ledgers.items()
    }
    usable = {split: rows for split, rows in usable.items() if len(rows)}
    if not usable:
        raise InputError("No labelled video is usable, so there can be no subset. Run `make manifests` to see why.")
    label_ids = sorted(set.intersection(*(set(rows["label_id"]) for rows in usable.values())))
    wanted = num_classes if num_classes is not None else len(label_ids)
    if not 1 <= wanted <= len(label_ids):
        splits = ", ".join(usable)
        raise InputError(f"--classes: got {wanted}, expected 1..{len(label_ids)}, the classes usable in {splits}.")
    taken = {label_ids[index] for index in np.random.default_rng(seed).permutation(len(label_ids))[:wanted]}
    chosen = {}
    for split, rows in usable.items():
        parts = []
        for label_id, videos in rows[rows["label_id"].isin(taken)].groupby("label_id"):
            rng = np.random.default_rng([seed, SPLITS.index(split), int(str(label_id))])
            parts.append(videos.iloc[rng.permutation(len(videos))[:per_class]])
        chosen[split] = pd.concat(parts).sort_values("video_id", ignore_index=True)
    return chosen


def subset_settings(settings: Preprocess, name: str) -> Preprocess:
    """The settings of a subset: a dataset of its own, with a store of its own beside that of the whole.

    The store has the name that `store: auto` gives it.
    """
    store = os.path.join(os.path.dirname(settings.store.rstrip("/")), f"{name}-shards")
    return dataclasses.replace(settings, dataset=name, labels=None, store=store)


def write_subset_labels(subset: Preprocess, ledgers: dict[str, pd.DataFrame], chosen: dict[str, pd.DataFrame]) -> None:
    """Write the label files of a subset.

    A new subset gets all of its files at once, so that a run that is killed leaves no split without the others.

    Args:
        subset: from `subset_settings`.
        ledgers: of the whole, by split; their class numbers stay.
        chosen: from `choose_subset`.
    """
    folder = ledger_folder(subset) / "labels"
    target = folder if folder.exists() else folder.with_name(".labels.new")
    names = class_names(*ledgers.values())
    write_table(target / "classes.csv", pd.DataFrame({"label_id": range(len(names)), "label": names}))
    for split, rows in chosen.items():
        kinetics = rows["youtube_id"].ne("").all()
        columns = ["label", "youtube_id", "time_start", "time_end", "split"] if kinetics else ["path", "label", "split"]
        write_table(target / f"{split}.csv", rows[columns])
    if target != folder:
        os.replace(target, folder)
        sync_folder(folder.parent)
