"""Reads the label files of every Kinetics release, and lists of own videos, as one table.

Kinetics: CSVs of ActivityNet's crawler (K400 with `is_cc`, K600), DeepMind's tarballs (`validate.csv`), CVDF's
`annotations/`, K700.  A byte-order mark, CRLF, quotes, `;` or tabs, float times, and a test split without labels are
all accepted.  Own videos: CSVs of `path,label`, lists of `path label_id` (custom_lists.py), or class folders.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.files import open_to_read
from pipeline.common.recipe import Preprocess
from pipeline.common.tables import TOO_LONG, BadValue, InputError, check_lines, csv_problem
from pipeline.labels.class_folders import read_class_folders
from pipeline.labels.class_ids import class_ids
from pipeline.labels.custom_lists import is_hmdb_list, is_list, keep_apart, own_videos, read_list
from pipeline.labels.find_files import FORMS, columns, find_label_files, head
from pipeline.labels.kinetics import kinetics_rows, release_of, shared_ids
from pipeline.labels.made_split import listing_path, with_splits
from pipeline.labels.number_names import name_numbers, other_numbering
from pipeline.labels.own_paths import OwnPaths
from pipeline.labels.split_words import SPLIT_WORDS, split_of

_USED = ("label", "label_id", "split", "row")  # columns that are read besides those that are needed


@dataclass(frozen=True)
class Labels:
    """What the label files say.

    Attributes:
        table: one row a video: video_id, youtube_id, time_start, time_end, label, label_id, split, path.  `path` is
            empty in Kinetics' label files; for own videos it is the file.
        kinetics: whether videos are identified by YouTube id and times; otherwise by path.
        verdict: what was recognised, in words.
        warnings: what is unusual but usable.
        listing: the label CSV that must be written to `made_split.listing_path`, because it keeps the splits that were
            made here: path, label, split, and label_id for a list with numbers.  None: there is nothing new to keep.
        hint: which file was looked for first, and which is nearest, if no path of a label file is on disk.
    """

    table: pd.DataFrame
    kinetics: bool
    verdict: list[str]
    warnings: list[str]
    listing: pd.DataFrame | None = None
    hint: str = ""


def load_labels(settings: Preprocess, videos: Sequence[str] = ()) -> Labels:
    """Find, read and join the label files of a dataset; without one, class folders name the labels.

    Args:
        settings: where label files are, and how a split is made.
        videos: every video file, relative to data_root.

    Raises:
        InputError: there are none, a column is missing, or rows are wrong or contradict each other (all such rows
            of all files are listed).
    """
    paths, searched = find_label_files(settings)
    listed = listing_path(settings)
    if not paths and not videos and listed.is_file():
        paths = [listed]  # the videos are gone, or data_root is not set
    if not paths and not settings.data_root:
        raise InputError("preprocess.data_root and preprocess.labels are not set. Set --preprocess.data_root=FOLDER.")
    if not paths and not videos:
        raise InputError(
            f"{settings.data_root}: no label CSV here or in annotations/, and no video. Name CSV files with {FORMS} in "
            "preprocess.labels, or put the videos into class folders."
        )
    bad_values: list[BadValue] = []
    own_paths = OwnPaths(settings, videos)
    raws = [_parse(path, bad_values) for path in paths]
    verdict = name_numbers([raw for raw, form in raws if form], settings, bad_values)
    warned: list[str] = []
    tables = []
    for path, (raw, form) in zip(paths, raws, strict=True):
        table = _checked(raw, own_paths, bad_values)
        tables.append(table)
        num_classes = table.loc[table["label"].ne(""), "label"].nunique()
        form = form or release_of(path, columns(head(path)[0])[0], num_classes)
        verdict.append(f"labels: {path}: {form}; {len(table):,} rows ({_counts(table)})")
    if not paths:
        raw, form, warned = read_class_folders(videos, settings.data_root)
        verdict.append(form)
        raw = raw.assign(file=settings.data_root, row=0, number=-1)
        tables.append(own_videos(raw, own_paths, bad_values, from_folders=True))
    earlier = None
    unsplit = [table for table in tables if table["split"].eq("").any()]
    if (unsplit or not paths) and listed.is_file():
        earlier = _checked(_parse(listed, bad_values)[0], OwnPaths(settings, ()), bad_values)
    if bad_values:
        raise InputError(f"label files: {len(bad_values):,} errors. Fix them and run this command again.", bad_values)
    if unsplit and len(unsplit) < len(tables):
        raise InputError(_only_some_split(unsplit[0], tables))
    table = pd.concat(tables, ignore_index=True)
    if searched and paths:
        _one_file_a_split(table)
    kinetics = table["youtube_id"].ne("").any()
    if kinetics and table["youtube_id"].eq("").any():
        raise InputError("label files: some identify videos by YouTube id, others by path. Use files of one kind.")
    listing = None
    if unsplit or not paths:
        table, listing, lines, more = with_splits(table, earlier, settings, keep_rows=not paths)
        verdict += [*lines, f"labels: {listed}: {_counts(table)}"]
        warned += more
    table, repeated = _without_copy_of_val(table)
    table, more = _join(keep_apart(table))
    label_id, origin = class_ids(table, settings)
    table = table.assign(label_id=label_id).drop(columns=["file", "row", "number"])
    warned += [*repeated, *more, *_odd_labels(table), *other_numbering(settings, table)]
    if kinetics:
        warned += shared_ids(table)
    return Labels(table, bool(kinetics), [*verdict, *own_paths.lines, origin], warned, listing, own_paths.hint)


def _counts(table: pd.DataFrame) -> str:
    """The number of rows of each split."""
    counts = table["split"].value_counts(sort=False)
    return ", ".join(f"{split or 'no split'} {count:,}" for split, count in counts.items())


def _only_some_split(without: pd.DataFrame, tables: list[pd.DataFrame]) -> str:
    """Why label files with a split and without one cannot be used together."""
    other = next(table["file"].iloc[0] for table in tables if table["split"].ne("").all())
    return (
        f"{without['file'].iloc[0]}: no split, but {other} has one. Give it a column split, or name the label files in "
        "preprocess.labels."
    )


def _parse(path: Path, bad_values: list[BadValue]) -> tuple[pd.DataFrame, str]:
    """The rows of a label file, not yet checked, with `number` (-1: none); and its form in words, if it is a list."""
    first, encoding = head(path)
    names, delimiter = columns(first)
    if not {"youtube_id", "path"} & set(names) and (is_list(first) or is_hmdb_list(path)):
        raw, form = read_list(path, encoding, bad_values)
    else:
        raw, form = _rows(path, names, delimiter, encoding), ""
    if "split" in raw:
        raw["split"] = each_unique(raw["split"], lambda text: SPLIT_WORDS.get(text.strip().lower(), text))
    else:
        raw["split"] = split_of(path.stem)
        if "youtube_id" in raw and not split_of(path.stem):
            raise InputError(
                f"{path}: no split: there is no column split, and the file's name has no word such as train or val. "
                "Rename the file."
            )
    if "label" not in raw:
        if raw["split"].ne("test").any():
            raise InputError(f"{path}:1: no column label, got {first}. Only a test split needs none.")
        raw["label"] = ""
    raw["label"] = each_unique(raw["label"], str.strip)
    raw["file"] = str(path)
    if "number" not in raw:
        raw["number"] = _numbers(raw, bad_values)
    return raw, form


def _numbers(raw: pd.DataFrame, bad_values: list[BadValue]) -> pd.Series | int:
    """The column `label_id` of a CSV of own videos as numbers; -1: none."""
    if "label_id" not in raw:
        return -1
    wrong = ~raw["label_id"].str.fullmatch(r"-1|\d{1,6}")
    rows = raw[wrong]
    bad_values += [BadValue(row.file, row.row, "label_id", row.label_id, "a class number") for row in rows.itertuples()]
    return raw["label_id"].where(~wrong, "-1").astype("int64")


def _checked(raw: pd.DataFrame, own_paths: OwnPaths, bad_values: list[BadValue]) -> pd.DataFrame:
    """Rows of a label file with the columns of Labels.table, `number`, `file` and `row`."""
    if "youtube_id" not in raw:
        return own_videos(raw, own_paths, bad_values)
    return kinetics_rows(raw, bad_values).assign(number=-1)


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
    used = [name for name in table.columns if name in {*needed, *_USED}]
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
    for split, names in table.groupby("split")["file"].unique().items():
        files = [name for name in names if not is_hmdb_list(Path(name))]
        if len(files) > 1:
            listed = ", ".join(files)
            raise InputError(f"split {split} has {len(files)} label files: {listed}. Name one in preprocess.labels.")


def _without_copy_of_val(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave out a test split with the videos of val, as many lists for SlowFast have one; with a warning."""
    ids = {split: set(table.loc[table["split"].eq(split), "video_id"]) for split in ("val", "test")}
    if not ids["test"] or ids["test"] != ids["val"]:
        return table, []
    kept = table[table["split"].ne("test")].reset_index(drop=True)
    return kept, [f"test has the same videos as val, and is left out: {len(ids['test']):,} videos"]


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
    """One warning for labels that look alike: two of Kinetics-600 differ in case only; elsewhere it is a mistake."""
    labels: dict[str, list[str]] = {}
    for label in sorted(table["label"].unique()):  # NFKC also makes a no-break space a space
        labels.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    alike = [" and ".join(ascii(name) if len(set(map(_shape, names))) < len(names) else repr(name) for name in names)
             for names in labels.values() if len(names) > 1]  # fmt: skip
    if not alike:
        return []
    return [
        f"{len(alike):,} groups of labels differ only in case, spaces or Unicode form, and are different classes: "
        f"{'; '.join(alike)}"
    ]


def _shape(label: str) -> str:
    """What a label looks like when it is printed."""
    return unicodedata.normalize("NFC", label).replace("\xa0", " ")
