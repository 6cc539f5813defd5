"""Which number a label has: its index in the sorted raw labels, never its place among folders.

That is the order of torchvision, mmaction2 and PaddleVideo.  (Folders as torchvision's downloader names them
sort differently: 308 and 309 change places.)  Kinetics-400's list is frozen in the repository, and a subset of
a dataset keeps its parent's list, so that a checkpoint means the same classes on any part of the data.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import InputError

KINETICS400 = Path(__file__).resolve().parents[2] / "data_manifests" / "kinetics400_classes.csv"

_MEND = "mend the label files"
_OTHER_RELEASE = (
    "if they are of another release, set --preprocess.dataset to a name of your own, such as kinetics600; else " + _MEND
)


def read_class_list(path: Path) -> list[str]:
    """The labels of a class list (`label_id,label`), 0 first.

    Raises:
        InputError: it is not there, or its ids are not 0, 1, 2, ...
    """
    try:
        table = pd.read_csv(path, dtype={"label_id": "int64", "label": "str"}, na_filter=False)
        ids, names = table["label_id"].tolist(), table["label"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a class list (label_id,label): {error}") from None
    if ids != list(range(len(ids))):
        raise InputError(f"{path}: label_id is not 0, 1, 2, ... from the first row to the last")
    return names


def frozen_classes(settings: Preprocess) -> tuple[list[str], Path] | None:
    """The class list a dataset must keep: its own in `<manifests>/<dataset>/labels/`, or Kinetics-400's."""
    own = Path(settings.manifests) / settings.dataset / "labels" / "classes.csv"
    if own.is_file():
        return read_class_list(own), own
    return (read_class_list(KINETICS400), KINETICS400) if settings.dataset == "kinetics400" else None


def class_ids(table: pd.DataFrame, settings: Preprocess) -> tuple[np.ndarray, str]:
    """The label_id of each row (-1 without a label), and a sentence on where the numbers come from.

    Raises:
        InputError: a frozen list lacks a label, or only the test split has it.
    """
    labelled = table[table["label"] != ""]
    taught = labelled[labelled["split"] != "test"]
    names = sorted((taught if len(taught) else labelled)["label"].unique())
    used = set(labelled["label"].unique())
    said = f"{len(names)} classes, numbered in the order of the sorted labels"
    kept = frozen_classes(settings)
    if kept is not None and (known := used & set(kept[0])):
        unknown = sorted(used - known)
        if unknown:
            mend = _OTHER_RELEASE if kept[1] == KINETICS400 else _MEND
            raise InputError(f"{_unknown(unknown, kept[0], f'class list {kept[1].name}')}; {mend}")
        names, said = kept[0], f"{len(used)} of the {len(kept[0])} classes of {kept[1].name}, which numbers them"
    elif kept is not None and used:
        said += f" (none is in {kept[1].name}: set preprocess.dataset to a name of your own)"
    elif unknown := sorted(used - set(names)):
        raise InputError(f"{_unknown(unknown, names, 'labels of train and val')}; {_MEND}")
    ids = {name: index for index, name in enumerate(names)} | {"": -1}
    codes, labels = pd.factorize(table["label"])
    return np.array([ids[label] for label in labels], dtype="int64")[codes], f"classes: {said}"


def _unknown(unknown: list[str], names: list[str], where: str) -> str:
    """An error that names each unknown label and the known one it is most like."""
    said = []
    for label in unknown[:20]:
        near = difflib.get_close_matches(label, names, n=1)
        said.append(f"{label!r}" + (f" (nearest: {near[0]!r})" if near else ""))
    more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
    return f"labels that are not in the {where}: {', '.join(said)}{more}"
