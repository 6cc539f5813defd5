"""Gives each label its number: its index among the sorted raw labels.

This is the order of torchvision, mmaction2 and PaddleVideo.  The order of folders is never used: with the names of
torchvision's downloader, 308 and 309 change places.  Kinetics-400's list is frozen in the repository, and a subset
keeps its parent's list, so that a checkpoint means the same classes on any part of the data.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.files import open_to_read
from pipeline.common.recipe import Preprocess
from pipeline.common.tables import CSV_ERRORS, InputError, check_lines, csv_problem
from pipeline.common.text import some

KINETICS400 = Path(__file__).resolve().parents[2] / "data_manifests" / "kinetics400_classes.csv"

_SPARSE = 4  # labels that are numbers stay label ids while the highest is at most so many times their count
_SHOWN = 20  # unknown labels in an error
_FIX = "Fix the label files."
_OTHER_RELEASE = (
    "If the label files are of another release, set --preprocess.dataset to a name of your own, such as kinetics600. "
    "Otherwise fix them."
)


def read_class_list(path: Path) -> list[str]:
    """The labels of a class list (`label_id,label`), 0 first.

    Raises:
        InputError: the file is missing, or its ids are not 0, 1, 2, ...
        OSError: it cannot be read.
    """
    try:
        with open_to_read(path) as file:
            table = pd.read_csv(file, dtype={"label_id": "int64", "label": "str"}, na_filter=False)
        ids, names = table["label_id"].tolist(), table["label"].tolist()
    except FileNotFoundError:
        raise InputError(f"{path}: no such class list. Expected columns label_id,label.") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: not a class list: {_problem(error)}. Expected columns label_id,label.") from None
    check_lines(path, len(ids) + 1)
    for index, label_id in enumerate(ids):
        if label_id != index:
            raise InputError(f"{path}:{index + 2}: label_id: got {label_id}, expected {index}. Sort the class list.")
    return names


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no column {error}"
    known = isinstance(error, CSV_ERRORS)
    return csv_problem(error) if known else "a label_id is no whole number"


def frozen_classes(settings: Preprocess) -> tuple[list[str], Path] | None:
    """The class list that a dataset must keep: its own in `<manifests>/<dataset>/labels/`, or Kinetics-400's."""
    path = Path(settings.manifests) / settings.dataset / "labels" / "classes.csv"
    if path.is_file():
        return read_class_list(path), path
    return (read_class_list(KINETICS400), KINETICS400) if settings.dataset == "kinetics400" else None


def class_ids(table: pd.DataFrame, settings: Preprocess) -> tuple[np.ndarray, str]:
    """The label_id of each row (-1 without a label), and a line that says where the numbers come from.

    Raises:
        InputError: a label is missing in the frozen list, or only the test split has it.
    """
    labelled = table[table["label"] != ""]
    trained = labelled[labelled["split"] != "test"]
    names = sorted((trained if len(trained) else labelled)["label"].unique())
    used = set(labelled["label"].unique())
    origin = f"{len(names)} classes, numbered in the order of the sorted labels"
    if (own := _own_numbers(labelled)) is not None:
        names, note = own
        origin = f"{len(used)} classes, {note}"
    frozen = frozen_classes(settings)
    if frozen is not None and (known := used & set(frozen[0])):
        _same_numbers(labelled, *frozen)
        names, path = frozen
        unknown = sorted(used - known)
        if unknown:
            action = _OTHER_RELEASE if path == KINETICS400 else _FIX
            raise InputError(f"{_unknown(unknown, names, f'class list {path.name}')}. {action}")
        origin = f"{len(used)} of the {len(names)} classes of {path.name}, with its numbers"
    elif frozen is not None and used:
        origin += f". None of them is in {frozen[1].name}. Set preprocess.dataset to a name of your own."
    elif unknown := sorted(used - set(names)):
        raise InputError(f"{_unknown(unknown, names, 'train or val')}. {_FIX}")
    ids = {name: index for index, name in enumerate(names)} | {"": -1}
    codes, labels = pd.factorize(table["label"])
    return np.array([ids[label] for label in labels], dtype="int64")[codes], f"classes: {origin}"


def _same_numbers(labelled: pd.DataFrame, names: list[str], path: Path) -> None:
    """Refuse a list whose own numbers differ from those of the class list that the dataset must keep."""
    number_of = {label: number for number, label in enumerate(names)}
    pairs = labelled.loc[labelled["number"].ge(0), ["label", "number"]].drop_duplicates()
    for label, number in zip(pairs["label"], pairs["number"], strict=True):
        if number_of.get(label, number) != number:
            raise InputError(
                f"label files: {label!r} has the number {number}, but {number_of[label]} in {path.name}. To keep the "
                "numbers of the label files, set preprocess.dataset to a name of your own."
            )


def _own_numbers(labelled: pd.DataFrame) -> tuple[list[str], str] | None:
    """The label of each number, empty where none has it, and a line about them; None: labels have no numbers.

    The numbers are those of a list, or of labels that are numbers themselves.

    Raises:
        InputError: a label has two numbers, or a number has two labels.
    """
    pairs = labelled[["label", "number"]].drop_duplicates()
    if pairs.empty:
        return None
    if pairs["number"].ge(0).all():
        for one, other in (("label", "number"), ("number", "label")):
            twice = pairs[pairs[one].duplicated(keep=False)].sort_values(one)
            if len(twice):
                values = " and ".join(repr(value) for value in twice.loc[twice[one].eq(twice[one].iloc[0]), other])
                raise InputError(f"label files: the {one} {twice[one].iloc[0]!r} has two {other}s: {values}. {_FIX}")
        note = "with the numbers of the label files"
    elif pairs["number"].lt(0).all() and pairs["label"].str.fullmatch(r"0|[1-9]\d{0,5}").all():
        pairs = pairs.assign(number=pairs["label"].astype("int64"))
        if pairs["number"].max() > _SPARSE * len(pairs):
            return sorted(pairs["label"], key=int), "numbered in the order of the labels, which are numbers"
        note = "whose labels are numbers and stay their label_id"
    else:
        return None
    names = [""] * (int(pairs["number"].max()) + 1)
    for label, number in zip(pairs["label"], pairs["number"], strict=True):
        names[number] = label
    if gaps := names.count(""):
        note += f", 0..{len(names) - 1}; {gaps} of these numbers have no video (model.num_classes auto is {len(names)})"
    return names, note


def _unknown(unknown: list[str], names: list[str], where: str) -> str:
    """An error that names each unknown label and the known label nearest to it."""
    labels: list[str] = []
    for label in unknown:
        near = difflib.get_close_matches(label, names, n=1) if len(labels) < _SHOWN else []
        labels.append(f"{label!r}" + (f" (nearest: {near[0]!r})" if near else ""))
    return f"{len(unknown):,} labels are not in {where}: {some(labels, _SHOWN)}"
