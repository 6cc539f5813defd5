"""Label files of every Kinetics release, and other people's lists, as one table.

Read: ActivityNet crawler's CSVs (K400 with `is_cc`, K600), DeepMind's tarballs (`validate.csv`), CVDF's
`annotations/`, K700; with a byte-order mark, CRLF, quotes, `;` or tabs, times as floats, a test split with or
without labels; and `path,label` CSVs and `path label_id` lists of own videos (lists.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import BadValue, InputError
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
        table: one row a video: video_id, youtube_id, time_start, time_end, label, label_id, split, path; the path
            is what an own list gives, empty in Kinetics.
        kinetics: whether videos are known by YouTube id and times; else by path.
        verdict: what was recognised, in plain words.
        warnings: what is odd but usable.
    """

    table: pd.DataFrame
    kinetics: bool
    verdict: list[str]
    warnings: list[str]


def load_labels(settings: Preprocess) -> Labels:
    """Find, read and join the label files of a dataset.

    Raises:
        InputError: there are none, they lack a column, or rows are faulty or contradict each other (all of
            those of all files are listed).
    """
    paths, found = find_label_files(settings)
    faults: list[BadValue] = []
    tables, verdict = [], []
    for path in paths:
        table, form = _read(path, settings, faults)
        tables.append(table)
        splits = ", ".join(f"{split} {count:,}" for split, count in table["split"].value_counts(sort=False).items())
        verdict.append(f"labels: {path}: {form}; {len(table):,} rows ({splits})")
    if faults:
        raise InputError(f"label files: {len(faults):,} faults; mend them and run this again", faults)
    table = pd.concat(tables, ignore_index=True)
    if found:
        _one_file_a_split(table)
    kinetics = table["youtube_id"].ne("").any()
    if kinetics and table["youtube_id"].eq("").any():
        raise InputError("label files: some name videos by YouTube id, others by path; use one kind")
    table, told = _join(table)
    label_id, said = class_ids(table, settings)
    table = table.assign(label_id=label_id).drop(columns=["file", "row"])
    more = [*_odd_labels(table), *other_numbering(settings, table), *(shared_ids(table) if kinetics else [])]
    return Labels(table, bool(kinetics), [*verdict, said], [*told, *more])


def find_label_files(settings: Preprocess) -> tuple[list[Path], bool]:
    """The label files of a dataset, and whether they were looked for rather than named.

    `preprocess.labels` (relative to the current folder or to data_root), else `<manifests>/<dataset>/labels/` (a
    subset keeps its own), else the CSVs in data_root and its annotations/ that have the columns.

    Raises:
        InputError: none, or one that was named is not there.
    """
    root = Path(settings.data_root)
    if settings.labels is not None:
        chosen = [next((p for p in (Path(name), root / name) if p.is_file()), None) for name in settings.labels]
        missing = [name for name, path in zip(settings.labels, chosen, strict=True) if path is None]
        if missing or not chosen:
            raise InputError(f"preprocess.labels: no such file: {', '.join(missing) or 'the list is empty'}")
        return [path for path in chosen if path is not None], False
    own = Path(settings.manifests) / settings.dataset / "labels"
    kept = [own / f"{split}.csv" for split in SPLITS if (own / f"{split}.csv").is_file()]
    if kept:
        return kept, False
    if not settings.data_root:
        raise InputError("preprocess.data_root is not set, nor preprocess.labels: set --preprocess.data_root=FOLDER")
    found = [path for folder in (root, root / "annotations") for path in sorted(folder.glob("*.csv")) if _is_ours(path)]
    if not found:
        raise InputError(
            f"{root}: no label CSV here or in annotations/; name some in preprocess.labels (CSV files with {FORMS})"
        )
    return found, True


def _is_ours(path: Path) -> bool:
    """A label CSV by its header; one that is named after a split must be one, and is faulted later if not."""
    head, _ = _head(path, must=False)
    return bool({"youtube_id", "path"} & set(_columns(head)[0])) or bool(split_of(path.stem))


def _head(path: Path, must: bool = True) -> tuple[str, str]:
    """The first line of a file and its encoding."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if must and not head.decode(encoding, "replace").strip():
        raise InputError(f"{path}: empty; expected {FORMS}")
    return (head.decode(encoding, "replace").lstrip("\r\n").splitlines() or [""])[0], encoding


def _columns(head: str) -> tuple[list[str], str]:
    """Names in a header line, and its delimiter."""
    delimiter = max(_DELIMITERS, key=head.count)
    return [name.strip().strip('"').lower() for name in head.split(delimiter)], delimiter


def _read(path: Path, settings: Preprocess, faults: list[BadValue]) -> tuple[pd.DataFrame, str]:
    """One label file as a table with columns of Labels.table, `file` and `row`; and its form in plain words."""
    head, encoding = _head(path)
    names, delimiter = _columns(head)
    if not {"youtube_id", "path"} & set(names) and is_list(head):
        raw, form = read_list(path, encoding, settings, faults)
    else:
        raw = _rows(path, names, delimiter, encoding)
        form = ""
    if "split" in raw:
        raw["split"] = each_unique(raw["split"], lambda text: SPLIT_WORDS.get(text.strip().lower(), text))
    else:
        raw["split"] = split_of(path.stem)
    if "label" not in raw:
        if raw["split"].ne("test").any():
            raise InputError(f"{path}:1: no column label (only a test split may go without); it has {head}")
        raw["label"] = ""
    raw["label"] = each_unique(raw["label"], str.strip)
    raw["file"] = str(path)
    table = kinetics_rows(raw, faults) if "youtube_id" in raw else own_videos(raw, settings, faults)
    return table, form or release_of(path, names, table.loc[table["label"].ne(""), "label"].nunique())


def _rows(path: Path, names: list[str], delimiter: str, encoding: str) -> pd.DataFrame:
    """A CSV with a header as text, with `row`, the line each row stands on."""
    needed = ["path"] if "path" in names else ["youtube_id", "time_start", "time_end"]
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise InputError(f"{path}:1: no column {', '.join(lacking)}; it has {', '.join(names)}; expected {FORMS}")
    options: dict[str, Any] = {"sep": delimiter, "encoding": encoding, "names": names, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
            # Blank lines are read, and dropped below, so that row numbers are line numbers.
            # `object`, since pandas looks for missing values whenever it touches a column of its own text type.
            table = pd.read_csv(path, header=0, dtype=object, na_filter=False, skip_blank_lines=False, **options)
    except pd.errors.ParserWarning:
        said = f"{path}:2: more values than the {len(names)} columns of the header"
        raise InputError(f"{said}; put a label with a comma in quotes") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}:{_first_odd_line(path, encoding)}: not UTF-8; save it as that") from None
    except ValueError as error:  # pandas' ParserError, for one
        raise InputError(f"{path}: cannot be read as CSV: {str(error).strip()}") from None
    table = table.fillna("")
    table["row"] = np.arange(2, len(table) + 2)
    suspects = table[table[needed[0]].eq("")]  # few, if any; one that says anything is kept, for the rules to fault
    blank = suspects.index[suspects.drop(columns="row").eq("").all(axis=1)]
    kept = [name for name in table.columns if name in {*needed, "label", "split", "row"}]
    table = table.loc[:, kept].drop(index=blank).reset_index(drop=True)
    if table.empty:
        raise InputError(f"{path}: a header and no rows; expected {FORMS}")
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
            said = ", ".join(files)
            raise InputError(f"two label files for split {split}: {said}; name those to use in preprocess.labels")


def _join(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Fold rows that say the same thing twice; a video with two labels, or in two splits, is an error.

    Raises:
        InputError: listing every row of every such video.
    """
    told: list[str] = []
    again = table.duplicated(["video_id", "label", "split"])
    if again.any():
        rows = [f"{row.file}:{row.row}" for row in table[again].head(5).itertuples()]
        told.append(f"{again.sum():,} label rows repeat an earlier one and count once: {', '.join(rows)}")
        table = table[~again].reset_index(drop=True)
    clash = table[table["video_id"].duplicated(keep=False)]
    faults = []
    for video_id, rows in clash.groupby("video_id"):
        for column, rule in (("label", "one label"), ("split", "one split")):
            if rows[column].nunique() > 1:
                others = " and ".join(f"{value!r}" for value in rows[column].unique())
                faults += [
                    BadValue(
                        row.file, row.row, column, getattr(row, column), f"{rule} for {video_id}, which has {others}"
                    )
                    for row in rows.itertuples()
                ]
    if faults:
        raise InputError(f"{clash['video_id'].nunique():,} videos have two labels or are in two splits", faults)
    return table, told


def _odd_labels(table: pd.DataFrame) -> list[str]:
    """Labels that differ in case only: two classes in Kinetics-600, a slip elsewhere."""
    labels = pd.Series(table["label"].unique())
    same = labels[labels.str.lower().duplicated(keep=False)].sort_values(key=lambda names: names.str.lower())
    return [f"labels that differ in case only are different classes: {', '.join(same)}"] if len(same) else []
