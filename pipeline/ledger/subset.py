"""A stratified part of a dataset, as a dataset of its own: `--classes 20 --per-class 50 --seed 0`.

Writes label files into `<manifests>/<name>/labels/`, from where the ordinary build takes them.  Class numbers are
the parent's (`labels/classes.csv`), so that a checkpoint means the same on both.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError, write_table
from pipeline.ledger.coverage import USABLE
from pipeline.ledger.table import class_names, ledger_path


def choose_subset(
    ledgers: dict[str, pd.DataFrame], num_classes: int | None, per_class: int | None, seed: int
) -> dict[str, pd.DataFrame]:
    """Rows of some classes, the same classes in every split; a split without labels is left out.

    The videos of a class do not depend on the other arguments' choices: a larger `per_class` has those of a smaller.

    Args:
        ledgers: by split.
        num_classes: None: all.
        per_class: usable videos of each class in each split, or as many as there are; None: all.
        seed: of both choices.

    Raises:
        InputError: the dataset has fewer classes with usable videos.
    """
    usable = {
        split: ledger[ledger["status"].isin(USABLE) & ledger["label_id"].ge(0)] for split, ledger in ledgers.items()
    }
    usable = {split: rows for split, rows in usable.items() if len(rows)}
    if not usable:
        raise InputError("no labelled video is usable: nothing to take a subset of; see `make manifests`")
    there = sorted(set.intersection(*(set(rows["label_id"]) for rows in usable.values())))
    wanted = num_classes if num_classes is not None else len(there)
    if not 1 <= wanted <= len(there):
        raise InputError(
            f"--classes: got {wanted}, expected 1..{len(there)}, the classes usable in {', '.join(usable)}"
        )
    taken = {there[index] for index in np.random.default_rng(seed).permutation(len(there))[:wanted]}
    chosen = {}
    for split, rows in usable.items():
        parts = []
        for label_id, videos in rows[rows["label_id"].isin(taken)].groupby("label_id"):
            rng = np.random.default_rng([seed, SPLITS.index(split), int(str(label_id))])
            parts.append(videos.iloc[rng.permutation(len(videos))[:per_class]])
        chosen[split] = pd.concat(parts).sort_values("video_id", ignore_index=True)
    return chosen


def write_subset_labels(
    settings: Preprocess, ledgers: dict[str, pd.DataFrame], chosen: dict[str, pd.DataFrame], name: str
) -> Preprocess:
    """Write the label files of a subset; returns the settings to build it with."""
    made = dataclasses.replace(settings, dataset=name, labels=None)
    folder = ledger_path(made, "train").parent / "labels"
    names = class_names(*ledgers.values())
    classes = pd.DataFrame({"label_id": range(len(names)), "label": names})
    for split, rows in chosen.items():
        kinetics = rows["youtube_id"].ne("").all()
        columns = ["label", "youtube_id", "time_start", "time_end", "split"] if kinetics else ["path", "label", "split"]
        write_table(folder / f"{split}.csv", rows[columns])
    write_table(folder / "classes.csv", classes)
    return made
