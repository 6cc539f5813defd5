"""Finds the label files of a dataset: those that are named, a subset's own, or those that lie beside the videos."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.common.files import open_to_read
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError
from pipeline.labels.custom_lists import is_hmdb_list, is_list
from pipeline.labels.split_words import split_of

FORMS = "columns youtube_id,time_start,time_end and label (no label in a test split), or path,label"
_DELIMITERS = ",;\t"
# Where label files lie in data_root: CVDF's annotations, and UCF101's and HMDB51's archives.
_FOLDERS = ("", "annotations", "ucfTrainTestlist", "testTrainMulti_7030_splits")
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


def find_label_files(settings: Preprocess) -> tuple[list[Path], bool]:
    """The label files of a dataset, and whether data_root was searched for them.

    They are those in `preprocess.labels` (relative to the current folder or to data_root), else those in
    `<manifests>/<dataset>/labels/` (a subset's), else CSVs in data_root, else lists there.  There may be none.

    Raises:
        InputError: one in `preprocess.labels` does not exist.
    """
    root = Path(settings.data_root)
    if settings.labels is not None:
        chosen = [next((p for p in (Path(name), root / name) if p.is_file()), None) for name in settings.labels]
        missing = [name for name, path in zip(settings.labels, chosen, strict=True) if path is None]
        if not chosen:
            raise InputError("preprocess.labels: the list is empty. Name a label file, or leave the key out.")
        if missing:
            raise InputError(f"preprocess.labels: no such file: {', '.join(missing)}. Correct the list.")
        return [path for path in chosen if path is not None], False
    folder = Path(settings.manifests) / settings.dataset / "labels"
    of_subset = [path for split in SPLITS if (path := folder / f"{split}.csv").is_file()]
    if of_subset:
        return of_subset, False
    if not settings.data_root:
        return [], False
    places = [root / name for name in _FOLDERS]
    for ending in ("csv", "txt"):
        paths = [path for place in places for path in sorted(place.glob(f"*.{ending}")) if _is_label_file(path)]
        if paths:
            return _first_divisions(paths), True
    return [], True


def kinetics_files(settings: Preprocess) -> list[Path]:
    """The label files in data_root with the columns of a Kinetics release."""
    paths, searched = find_label_files(settings)
    return [path for path in paths if searched and "youtube_id" in columns(head(path, allow_empty=True)[0])[0]]


def _is_label_file(path: Path) -> bool:
    """Whether a CSV has a label file's header or a split's name, or a text file is a list of a split.

    `label_files` raises if a CSV named like a split has no such header.
    """
    first, _ = head(path, allow_empty=True)
    if path.suffix == ".txt":
        return is_hmdb_list(path) or bool(split_of(path.stem)) and is_list(first)
    return bool({"youtube_id", "path"} & set(columns(first)[0])) or bool(split_of(path.stem))


def _first_divisions(paths: list[Path]) -> list[Path]:
    """Of lists that differ in a number only (UCF101's three divisions into train and test), the first."""
    kept: dict[Path, Path] = {}
    for path in paths:
        kept.setdefault(path.with_name(_LAST_NUMBER.sub("#", path.stem)) if path.suffix == ".txt" else path, path)
    return list(kept.values())


def head(path: Path, allow_empty: bool = False) -> tuple[str, str]:
    """The first line of a file, and its encoding.

    Raises:
        InputError: the file is empty, unless that is allowed.
    """
    with open_to_read(path) as file:
        content = file.read(1 << 16)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if not allow_empty and not content.decode(encoding, "replace").strip():
        raise InputError(f"{path}: The file is empty. Expected {FORMS}.")
    return (content.decode(encoding, "replace").lstrip("\r\n").splitlines() or [""])[0], encoding


def columns(first: str) -> tuple[list[str], str]:
    """The names in a header line, and its delimiter."""
    delimiter = max(_DELIMITERS, key=first.count)
    return [name.strip().strip('"').lower() for name in first.split(delimiter)], delimiter
