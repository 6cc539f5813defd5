"""Names the numbers of lists, which stay the label ids: weights that were trained elsewhere mean the same classes.

Names come from a file beside the list or in data_root: zjut_mindvideo's `cls2index.json`, SlowFast's `classids.json`,
UCF101's `classInd.txt`, or mmaction2's `label_map*.txt` (line i names class i).  Without one, Kinetics-400's come from
its frozen list, and others from the folders of the videos, if each number has a folder of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.common.recipe import Preprocess
from pipeline.common.tables import BadValue, InputError
from pipeline.common.text import some
from pipeline.labels.class_ids import KINETICS400, read_class_list

_NUMBERED = re.compile(r"(\d+)[\s,;]+(\S.*)")


@dataclass(frozen=True)
class _Names:
    """The label of each number, and where it is from.  A file `by_line` does not say whether it counts from 0 or 1."""

    labels: dict[int, str]
    source: str
    by_line: bool = False


def name_numbers(lists: list[pd.DataFrame], settings: Preprocess, bad_values: list[BadValue]) -> list[str]:
    """Fill in the `label` and `number` of the rows of all lists, in place.

    A row of a list without numbers has the number of its label.  A number that counts from 1 becomes one that counts
    from 0, if the file of names shows it.

    Args:
        lists: columns path, label (empty where there is a number), number (-1: none), file, row.
        settings: where files of names may lie.
        bad_values: gets each number and label that the file of names has not.

    Returns:
        What was done, in words.
    """
    used = {int(number) for table in lists for number in table["number"].unique()} - {-1}
    if not used:
        return []
    folder = Path(lists[0]["file"].iloc[0]).parent
    names = _read_names(folder, settings) or _folder_names(lists)
    if names is None:
        names = _Names({number: f"class_{number:04d}" for number in used}, "number, because no file names them")
    labels = names.labels
    if names.by_line and 0 not in used and max(used) == len(labels):
        labels = {number + 1: label for number, label in labels.items()}
    from_one = not names.source.startswith(("number", "folder")) and labels and min(labels) == 1
    number_of = {label: number for number, label in labels.items()}
    for table in lists:
        for index, number, label in zip(table.index, table["number"].tolist(), table["label"].tolist(), strict=True):
            known = labels.get(number) if number >= 0 else label if label in number_of else None
            if known is None:
                column, got = ("label_id", str(number)) if number >= 0 else ("label", label)
                file, row = str(table["file"][index]), int(table["row"][index])
                bad_values.append(BadValue(file, row, column, got, f"one of {names.source}"))
        numbers = [number if number >= 0 else number_of.get(label, -1)
                   for number, label in zip(table["number"], table["label"], strict=True)]  # fmt: skip
        table["label"] = [labels.get(number, "?") for number in numbers]
        table["number"] = [number - 1 if from_one else number for number in numbers]
    lines = [f"classes: {len(used):,} numbers of lists, named by {names.source}"]
    if from_one:
        lines.append(f"classes: {names.source} counts from 1, so label_id is the number less 1")
    elif 0 not in used and used == set(range(1, len(used) + 1)):
        lines.append("classes: no row has the number 0. Numbers are kept, so label_id 0 has no name and no video.")
    return lines


def _read_names(folder: Path, settings: Preprocess) -> _Names | None:
    """The names in the first file of names beside a list or in data_root."""
    for place in (folder, Path(settings.data_root)):
        for name in ("cls2index.json", "classids.json"):
            if (place / name).is_file():
                return _Names({number: label for label, number in index_of(place / name).items()}, str(place / name))
        for path in (place / "classInd.txt", *sorted(place.glob("label_map*.txt"))):
            if path.is_file():
                return _lines(path)
    if settings.dataset == "kinetics400":
        return _Names(dict(enumerate(read_class_list(KINETICS400))), KINETICS400.name)
    return None


def _lines(path: Path) -> _Names:
    """The names of a text file: `7 name` in each line, or a name in each line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as text: {error}. Save it as UTF-8.") from None
    lines = [line.strip() for line in text.split("\n")]  # splitlines also ends a line at U+2028 within a name
    matches = [_NUMBERED.fullmatch(line) for line in lines if line]
    if matches and all(matches):
        labels = {int(match[1]): match[2] for match in matches if match}
        if len(labels) == len(matches):
            return _Names(labels, str(path))
    return _Names({number: line for number, line in enumerate(lines) if line}, str(path), by_line=True)


def _folder_names(lists: list[pd.DataFrame]) -> _Names | None:
    """The folder of the videos of each number, if no two numbers share one and no number has two."""
    folders: dict[int, set[str]] = {}
    for table in lists:
        for path, number in zip(table["path"].tolist(), table["number"].tolist(), strict=True):
            folders.setdefault(number, set()).add(path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2])
    one_each = all(len(names) == 1 for names in folders.values())
    labels = {number: next(iter(names)) for number, names in folders.items()}
    distinct = len(set(labels.values())) == len(labels) > 1 and all(labels.values())
    return _Names(labels, "folders of the videos") if one_each and distinct else None


def index_of(path: Path) -> dict[str, int]:
    """A JSON object of label: number, such as `cls2index.json`.

    Raises:
        InputError: it is another file, or two labels have one number.
    """
    try:
        numbers = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}. Fix or remove it.") from None
    if not isinstance(numbers, dict) or not all(type(number) is int for number in numbers.values()):
        raise InputError(f"{path}: not a JSON object of label: number. Fix or remove it.")
    twice = sorted(label for label, number in numbers.items() if list(numbers.values()).count(number) > 1)
    if twice:
        raise InputError(f"{path}: labels with one number: {some(twice)}. Fix or remove it.")
    return {label.strip().strip('"'): number for label, number in numbers.items()}


def other_numbering(settings: Preprocess, table: pd.DataFrame) -> list[str]:
    """A warning if a `cls2index.json` in data_root (zjut_mindvideo writes one) numbers classes differently."""
    path = Path(settings.data_root) / "cls2index.json"
    if not path.is_file():
        return []
    theirs = index_of(path)
    ours = dict(zip(table["label"], table["label_id"], strict=True))
    differing = [label for label in sorted(theirs) if label in ours and ours[label] != theirs[label]]
    if not differing or min(theirs.values()) == 1 and all(ours[label] == theirs[label] - 1 for label in differing):
        return []
    first = differing[0]
    example = f"{first!r} is {theirs[first]} there and {ours[first]} here"
    return [f"{path} numbers {len(differing)} classes differently ({example}). Do not use checkpoints made with it."]
