"""Reads the label files of every Kinetics release, and lists of own videos, as one table.

Kinetics: CSVs of ActivityNet's crawler (K400 with `is_cc`, K600), DeepMind's tarballs (`validate.csv`), CVDF's
`annotations/`, K700.  A byte-order mark, CRLF, quotes, `;` or tabs, float times, and a test split without labels are
all accepted.  Own videos: CSVs of `path,label` and lists of `path label_id` (custom_lists.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.files import open_to_read
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import TOO_LONG, BadValue, InputError, check_lines, csv_problem
from pipeline.labels.class_ids import class_ids
from pipeline.labels.custom_lists import is_list, other_numbering, own_videos, read_list
from pipeline.labels.kinetics import kinetics_rows, release_of, shared_ids
from pipeline.labels.split_words import SPLIT_WORDS, split_of

FORMS = "columns youtube_id,time_start,time_end and label (no label in a test split), or path,label"
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Labels:
    """What the label files say.

    Attributes:
        table: one row a video: video_id, youtube_id, time_start, time_end, label, label_id, split, path.  `path` is
            empty in Kinetics; for own videos it is the file.
        kinetics: whether videos are identified by YouTube id and times; otherwise by path.
        verdict: what was recognised, in words.
        warnings: what is unusual but usable.
    """

    table: pd.DataFrame
    kinetics: bool
    verdict: list[str]
    warnings: list[str]


def load_labels(settings: Preprocess) -> Labels:
    """Find, read and join the label files of a dataset.

    Raises:
        InputError: there are none, a column is missing, or rows are wrong or contradict each other (all such rows
            of all files are listed).
    """
    paths, searched = find_label_files(settings)
    bad_values: list[BadValue] = []
    tables, verdict = [], []
    for path in paths:
        table, form = _read(path, settings, bad_values)
        tables.append(table)
        splits = ", ".join(f"{split} {count:,}" for split, count in table["split"].value_counts(sort=False).items())
        verdict.append(f"labels: {path}: {form}; {len(table):,} rows ({splits})")
    if bad_values:
        raise InputError(f"label files: {len(bad_values):,} errors. Fix them and run this command again.", bad_values)
    table = pd.concat(tables, ignore_index=True)
    if searched:
        _one_file_a_split(table)
    kinetics = table["youtube_id"].ne("").any()
    if kinetics and table["youtube_id"].eq("").any():
        raise InputError("label files: some identify videos by YouTube id, others by path. Use files of one kind.")
    table, warned = _join(table)
    label_id, origin = class_ids(table, settings)
    table = table.assign(label_id=label_id).drop(columns=["file", "row"])
    warned += [*_odd_labels(table), *other_numbering(settings, table), *(shared_ids(table) if kinetics else [])]
    return Labels(table, bool(kinetics), [*verdict, origin], warned)


def find_label_files(settings: Preprocess) -> tuple[list[Path], bool]:
    """The label files of a dataset, and whether data_root was searched for them.

    They are those in `preprocess.labels` (relative to the current folder or to data_root), else those in
    `<manifests>/<dataset>/labels/` (a subset's), else CSVs with the right columns in data_root and its annotations/.

    Raises:
        InputError: there are none, or one in `preprocess.labels` does not exist.
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
        raise InputError("preprocess.data_root and preprocess.labels are not set. Set --preprocess.data_root=FOLDER.")
    candidates = [*sorted(root.glob("*.csv")), *sorted((root / "annotations").glob("*.csv"))]
    paths = [path for path in candidates if _is_label_file(path)]
    if not paths:
        raise InputError(
            f"{root}: no label CSV here or in annotations/. Name CSV files with {FORMS} in preprocess.labels."
        )
    return paths, True


def _is_label_file(path: Path) -> bool:
    """Whether a CSV has a label file's header or a split's name; `_read` raises if the latter has no such header."""
    head, _ = _head(path, allow_empty=True)
    return bool({"youtube_id", "path"} & set(_columns(head)[0])) or bool(split_of(path.stem))


def _head(path: Path, allow_empty: bool = False) -> tuple[str, str]:
    """The first line of a file, and its encoding."""
    with open_to_read(path) as file:
        head = file.read(1 << 16)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if not allow_empty and not head.decode(encoding, "replace").strip():
        raise InputError(f"{path}: The file is empty. Expected {FORMS}.")
    return (head.decode(encoding, "replace").lstrip("\r\n").splitlines() or [""])[0], encoding


def _columns(head: str) -> tuple[list[str], str]:
    """The names in a header line, and its delimiter."""
    delimiter = max(_DELIMITERS, key=head.count)
    return [name.strip().strip('"').lower() for name in head.split(delimiter)], delimiter


def _read(path: Path, settings: Preprocess, bad_values: list[BadValue]) -> tuple[pd.DataFrame, str]:
    """One label file as a table with the columns of Labels.table, `file` and `row`; and its form in words."""
    head, encoding = _head(path)
    names, delimiter = _columns(head)
    if not {"youtube_id", "path"} & set(names) and is_list(head):
        raw, form = read_list(path, encoding, settings, bad_values)
    else:
        raw = _rows(path, names, delimiter, encoding)
        form = ""
    if "split" in raw:
        raw["split"] = each_unique(raw["split"], lambda text: SPLIT_WORDS.get(text.strip().lower(), text))
    else:
        raw["split"] = split_of(path.stem)
    if "label" not in raw:
        if raw["split"].ne("test").any():
            raise InputError(f"{path}:1: no column label, got {head}. Only a test split needs none.")
        raw["label"] = ""
    raw["label"] = each_unique(raw["label"], str.strip)
    raw["file"] = str(path)
    table = kinetics_rows(raw, bad_values) if "youtube_id" in raw else own_videos(raw, settings, bad_values)
    return table, form or release_of(path, names, table.loc[table["label"].ne(""), "label"].nunique())


def _rows(path: Path, names: list[str], delimiter: str, encoding: str) -> pd.DataFrame:
    """A CSV with a header, as text, and `row`: the line number of each row."""
    needed = ["path"] if "path" in names else ["youtube_id", "time_start", "time_end"]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(f"{path}:1: no column {', '.join(missing)}, got {', '.join(names)}. Expected {FORMS}.")
    options: dict[str, Any] = {"sep": delimiter, "encoding": encoding, "names": names, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
            # Blank lines are read, and dropped below, so that row numbers are line numbers.
            # `object`: pandas looks for missing values in each operation on a column of its own text type.
            with open_to_read(path) as file:
                table = pd.read_csv(file, header=0, dtype=object, na_filter=False, skip_blank_lines=False, **options)
    except pd.errors.ParserWarning:
        problem = f"{path}:2: more values than the {len(names)} columns of the header"
        raise InputError(f"{problem}. Put a label with a comma in quotes.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}:{_first_odd_line(path, encoding)}: not UTF-8. Save the file as UTF-8.") from None
    except ValueError as error:  # such as pandas' ParserError
        if match := TOO_LONG.search(str(error)):
            message = f"{path}:{match['line']}: got {match['got']} values, expected {match['expected']}"
            raise InputError(f"{message}. Put a label with a comma in quotes.") from None
        check_lines(path, None, encoding, delimiter)
        raise InputError(f"{path}: not readable as CSV: {csv_problem(error)}. Fix the file.") from None
    check_lines(path, len(table) + 1, encoding, delimiter)
    table = table.fillna("")
    table["row"] = np.arange(2, len(table) + 2)
    suspects = table[table[needed[0]].eq("")]  # few, if any; one with some value is kept, and the rules report it
    blank = suspects.index[suspects.drop(columns="row").eq("").all(axis=1)]
    used = [name for name in table.columns if name in {*needed, "label", "split", "row"}]
    table = table.loc[:, used].drop(index=blank).reset_index(drop=True)
    if table.empty:
        raise InputError(f"{path}: The file has a header but no rows. Expected {FORMS}.")
    return table


def _first_odd_line(path: Path, encoding: str) -> int:
    """The first line that is not text in `encoding`."""
    content = path.read_bytes()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        return content.count(b"\n", 0, error.start) + 1
    return 1


def each_unique(column: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """`column` with `change` applied once to each distinct value."""
    codes, values = pd.factorize(column)
    changed = np.array([change(value) for value in values], dtype=object)
    return pd.Series(changed[codes], index=column.index, dtype=object)


def _one_file_a_split(table: pd.DataFrame) -> None:
    for split, files in table.groupby("split")["file"].unique().items():
        if len(files) > 1:
            names = ", ".join(files)
            raise InputError(f"split {split} has {len(files)} label files: {names}. Name one in preprocess.labels.")


def _join(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Drop repeated rows, with a warning; a video with two labels or in two splits is an error.

    Raises:
        InputError: listing every row of every such video.
    """
    warned: list[str] = []
    repeated = table.duplicated(["video_id", "label", "split"])
    if repeated.any():
        rows = [f"{row.file}:{row.row}" for row in table[repeated].head(5).itertuples()]
        warned.append(f"{repeated.sum():,} label rows repeat an earlier row and are ignored: {', '.join(rows)}")
        table = table[~repeated].reset_index(drop=True)
    clash = table[table["video_id"].duplicated(keep=False)]
    bad_values = []
    for video_id, rows in clash.groupby("video_id"):
        for column, rule in (("label", "one label"), ("split", "one split")):
            if rows[column].nunique() > 1:
                values = " and ".join(f"{value!r}" for value in rows[column].unique())
                expected = f"{rule} for {video_id}, which has {values}"
                bad_values += [
                    BadValue(row.file, row.row, column, getattr(row, column), expected) for row in rows.itertuples()
                ]
    if bad_values:
        num_videos = clash["video_id"].nunique()
        message = f"{num_videos:,} videos have two labels or are in two splits. Fix the label files."
        raise InputError(message, bad_values)
    return table, warned


def _odd_labels(table: pd.DataFrame) -> list[str]:
    """A warning for labels that differ in case only: two classes in Kinetics-600, elsewhere likely a mistake."""
    labels = pd.Series(table["label"].unique())
    same = labels[labels.str.lower().duplicated(keep=False)].sort_values(key=lambda names: names.str.lower())
    return [f"Labels that differ only in case are different classes: {', '.join(same)}"] if len(same) else []
