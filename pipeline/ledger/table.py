"""Reads and writes ledgers, fills in what decoding found, and names the videos in them.

<manifests>/<dataset>/<split>.csv      one row for every row of the label CSVs (files.py writes them)
"""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.files import naming
from pipeline.common.outcome import LATER_FIELDS
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import CSV_ERRORS, InputError, csv_problem, list_of
from pipeline.common.text import shown, some
from pipeline.ledger import files
from pipeline.ledger.schema import BAD_STATUSES, COLUMNS, LEARNED, is_plausible, typed, validate

_OLD_RETRY = "to be tried again: "
_BLANK: dict[str, str | int | float] = {"str": "", "int64": 0, "float64": 0.0}


def ledger_folder(settings: Preprocess) -> Path:
    """`<manifests>/<dataset>`, where a dataset's ledgers are."""
    return Path(settings.manifests) / settings.dataset


def ledger_path(settings: Preprocess, split: str) -> Path:
    """`<manifests>/<dataset>/<split>.csv`."""
    return ledger_folder(settings) / f"{split}.csv"


def read_ledger(path: Path | str) -> pd.DataFrame:
    """Read and validate a ledger.

    Returns:
        One row a video in the columns and dtypes of COLUMNS, sorted by video_id, index 0..n-1.

    Raises:
        InputError: the file is missing, is not a ledger, has bad values (all of them are listed), or is not the one
            that was written.
    """
    path = Path(path)
    rows, intact = _read_rows(path)
    table, bad_values = typed(rows, str(path))
    _retries_by_status(table)
    validate(table, str(path), bad_values)
    if not intact:
        raise InputError(f"{path}: changed since it was written. Run `make manifests` to rebuild it.")
    return table


def read_ledgers(settings: Preprocess) -> dict[str, pd.DataFrame]:
    """The ledgers of a dataset by split.

    Raises:
        InputError: there is none, some have bad values (all of them are listed), or they have different class lists.
    """
    return read_ledgers_at({split: ledger_path(settings, split) for split in SPLITS})


def read_ledgers_at(paths: dict[str, Path]) -> dict[str, pd.DataFrame]:
    """Those ledgers of one folder that exist, by split.

    Raises:
        InputError: as `read_ledgers`.
    """
    folder = next(iter(paths.values())).parent
    return files.at_rest(folder, lambda: _read_existing(folder, paths))


def _read_existing(folder: Path, paths: dict[str, Path]) -> dict[str, pd.DataFrame]:
    existing = {split: path for split, path in paths.items() if files.exists(path)}
    if not existing:
        raise InputError(f"{folder}: no ledgers here. Run `make manifests`.")
    ledgers, errors = {}, []
    for split, path in existing.items():
        try:
            ledgers[split] = read_ledger(path)
        except InputError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        message = " ".join(error.message for error in errors)
        raise InputError(message, [bad for error in errors for bad in error.bad_values])
    if not files.check_record(folder):
        class_names(*ledgers.values())
    return ledgers


def read_split(settings: Preprocess, split: str, names: Sequence[str]) -> pd.DataFrame:
    """Some columns of a split's ledger (`read_columns`), if the dataset's ledgers have one class list.

    Raises:
        InputError: as `read_columns`, or the ledgers have different class lists.
    """
    folder, path = ledger_folder(settings), ledger_path(settings, split)

    def read() -> pd.DataFrame:
        if not files.check_record(folder):
            ledgers = (ledger_path(settings, each) for each in SPLITS)
            class_names(*(read_columns(each, ["label", "label_id"]) for each in ledgers if files.exists(each)))
        return read_columns(path, names)

    return files.at_rest(folder, read)


def _retries_by_status(table: pd.DataFrame) -> None:
    """Convert rows of ledgers from before 2026-11: `retry` was `pending` then, and its reason had a prefix."""
    if not any(reason.startswith(_OLD_RETRY) for reason in set(list_of(table["reason"]))):
        return  # nearly always, and fast
    old = table["status"].eq("pending") & table["reason"].str.startswith(_OLD_RETRY)
    if old.any():
        table.loc[old, "status"] = "retry"
        table.loc[old, "reason"] = table.loc[old, "reason"].str.removeprefix(_OLD_RETRY)


def read_columns(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Some columns of a ledger, with the rules of schema.py that cost little: `read_ledger` takes five times as long.

    Raises:
        InputError: as `read_ledger`.
    """
    table, intact = _read_rows(path, names)
    if intact and is_plausible(table):
        return table
    return read_ledger(path)[[name for name in COLUMNS if name in names]]  # raises, and lists the wrong values


def _read_rows(path: Path, names: Sequence[str] | None = None) -> tuple[pd.DataFrame, bool]:
    """The rows as they are in the file, all columns or some; as text if some value is not a number.

    Returns:
        The rows, and whether the file is the one that was written (files.open_ledger).
    """
    try:
        file, intact = files.open_ledger(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such ledger. Run `make manifests`.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: not a ledger: it is a folder. Remove it and run `make manifests`.") from None
    with file, naming(path):
        try:
            with warnings.catch_warnings(), np.errstate(invalid="ignore"):
                warnings.simplefilter("error", pd.errors.ParserWarning)  # a first row longer than the header
                table = _parse(file, path, names)
        except CSV_ERRORS as error:
            raise InputError(
                f"{path}: not a ledger: {csv_problem(error)}. Run `make manifests` to rebuild it."
            ) from None
    if table.empty:
        raise InputError(f"{path}: not a ledger: it has a header but no rows. Run `make manifests` to rebuild it.")
    return table, intact


def _parse(file: BinaryIO, path: Path, names: Sequence[str] | None) -> pd.DataFrame:
    header = list(pd.read_csv(file, nrows=0, encoding="utf-8").columns)
    absent = [name for name in COLUMNS if name not in header]  # missing in ledgers of earlier versions
    if header != [name for name in COLUMNS if name in header] or not set(absent) <= set(LEARNED[1:]):
        wrong = sorted(set(header).symmetric_difference(COLUMNS)) or ["order of columns"]
        raise InputError(f"{path}:1: not a ledger: wrong columns: {some(map(shown, wrong))}. Run `make manifests`.")
    wanted = list(COLUMNS) if names is None else list(names)
    present = [name for name in wanted if name in header]
    # With a choice of columns, pandas ignores what a row has beyond its header; without one, it is an error.
    usecols = present if names is not None else None
    read_csv = functools.partial(pd.read_csv, usecols=usecols, index_col=False, na_filter=False, encoding="utf-8")
    file.seek(0)
    try:
        table = read_csv(file, dtype=COLUMNS, float_precision="round_trip")
    except CSV_ERRORS:
        raise
    except (ValueError, OverflowError):  # some value is not a number: read again as text, to list them all
        file.seek(0)
        table = read_csv(file, dtype=str)
    for place, name in enumerate(name for name in COLUMNS if name in wanted):
        if name not in present:
            table.insert(place, name, pd.Series(_BLANK[COLUMNS[name]], index=table.index, dtype=COLUMNS[name]))
    return table


def write_ledger(path: Path | str, ledger: pd.DataFrame) -> None:
    """Write one ledger of a dataset, sorted; the others stay.  Same table, same bytes.

    Raises:
        InputError: the table is not a valid ledger; nothing is written.
    """
    write_ledgers({Path(path): ledger})


def write_ledgers(ledgers: dict[Path, pd.DataFrame], valid: Collection[Path] = ()) -> None:
    """Write ledgers of one dataset, all of them or none: readers see all old files or all new ones (files.py).

    Args:
        ledgers: by path, all in one folder.
        valid: paths whose ledgers were validated already.

    Raises:
        InputError: one is not a valid ledger, or two have different class lists; none is written.
    """
    tables = {path: _sorted(ledger.loc[:, list(COLUMNS)]) for path, ledger in ledgers.items()}
    for path, table in tables.items():
        if path not in valid:
            validate(table, str(path))
    (folder,) = {path.parent for path in tables}
    contents = {
        path.name: table.drop(columns=[name for name in LATER_FIELDS if table[name].eq("").all()])
        for path, table in tables.items()
    }
    files.write_together(folder, contents, class_names(*tables.values()))


def _sorted(ledger: pd.DataFrame) -> pd.DataFrame:
    if ledger["video_id"].is_monotonic_increasing:
        return ledger.reset_index(drop=True)
    return ledger.sort_values("video_id", kind="stable", ignore_index=True)


def blank_rows(num_rows: int) -> pd.DataFrame:
    """The columns of LEARNED for rows about which nothing is known."""
    return pd.DataFrame({name: pd.Series([_BLANK[COLUMNS[name]]] * num_rows, dtype=COLUMNS[name]) for name in LEARNED})


def fill_ledger(ledger: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Copy into a ledger what shards say about its videos.

    `preprocess` and `manifests` both use it, so that they write the same bytes.

    Args:
        ledger: any ledger.
        outcomes: `video_id` and the columns of LEARNED (`store.outcomes_table`), one row a video.

    Returns:
        A new ledger; rows without an outcome are unchanged.

    Raises:
        InputError: the video of an outcome is not in the ledger, or a video has two outcomes.
    """
    ids = outcomes["video_id"]
    rows = pd.Index(ledger["video_id"]).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(f"Videos in shards are not in the ledger: {some(ids[rows < 0])}. Run `make manifests`.")
    if ids.duplicated().any():
        raise InputError(f"Videos are in two shards: {some(ids[ids.duplicated()])}. Run `make verify`.")
    # Of a missing video the ledger keeps its reason: a shard has none.
    missing = ledger["status"].eq("missing").to_numpy()[rows] & outcomes["status"].eq("missing").to_numpy()
    rows, outcomes = rows[~missing], outcomes[~missing]
    filled = ledger.copy()
    for name in LEARNED:
        kind = "object" if COLUMNS[name] == "str" else COLUMNS[name]
        values, learned = ledger[name].to_numpy(kind, copy=True), outcomes[name].to_numpy(kind)
        # A ledger row must be one line, and a decoder's message may have several.
        values[rows] = [_one_line(str(text)) for text in learned] if name == "reason" else learned
        filled[name] = pd.Series(values, index=ledger.index, dtype=COLUMNS[name])
    filled.loc[filled["status"] == "missing", "path"] = ""  # its file was deleted after the ledger was built
    return filled


def _one_line(text: str) -> str:
    """A message as one line that a ledger can hold."""
    return " ".join(text.encode(errors="backslashreplace").decode().replace("\0", "\\x00").split())


def awaited(ledger: pd.DataFrame, outcomes: pd.DataFrame) -> NDArray[np.bool_]:
    """Which outcomes are out of date, because their video waits to be decoded.

    A file that came after its shard was written will be decoded; so will a bad one that is to be retried.

    Args:
        ledger: any ledger.
        outcomes: of videos of the ledger, one row a video.
    """
    rows = pd.Index(ledger["video_id"]).get_indexer(pd.Index(outcomes["video_id"]))
    bad, missing = outcomes["status"].isin(BAD_STATUSES), outcomes["status"].eq("missing")
    retried = ledger["status"].eq("retry").to_numpy()[rows]
    present = (ledger["path"].ne("") & ledger["status"].ne("ok")).to_numpy()[rows]  # for an ok its shard counts
    return (bad & retried | missing & present).to_numpy()


def class_names(*ledgers: pd.DataFrame) -> list[str]:
    """The label of each label_id, 0 first; empty where no row has the id (a subset keeps its parent's ids).

    Raises:
        InputError: one label_id has two labels, or one label two numbers.
    """
    pairs = pd.concat([ledger[["label_id", "label"]] for ledger in ledgers]).drop_duplicates()
    pairs = pairs[pairs["label_id"] >= 0].sort_values(["label_id", "label"])
    twice = pairs[pairs["label_id"].duplicated(keep=False)].head(10)
    if len(twice):
        labels = "; ".join(f"{i} is {label!r}" for i, label in zip(twice["label_id"], twice["label"], strict=True))
        raise InputError(f"Ledgers have different class lists: {labels}. Run `make manifests` to rebuild all of them.")
    again = pairs[pairs["label"].duplicated(keep=False)].sort_values(["label", "label_id"]).head(10)
    if len(again):
        labels = "; ".join(f"{label!r} is {i}" for i, label in zip(again["label_id"], again["label"], strict=True))
        raise InputError(f"Ledgers have different class lists: {labels}. Run `make manifests` to rebuild all of them.")
    names = [""] * (int(pairs["label_id"].max()) + 1 if len(pairs) else 0)
    for label_id, label in zip(pairs["label_id"], pairs["label"], strict=True):
        names[label_id] = label
    return names


def videos_name(dataset: str, ledger: pd.DataFrame, statuses: Iterable[str] = ("ok",)) -> str:
    """A name for the videos that a result was computed on: `k400-val@1f2e3d4c (19,404 of 19,906)`.

    The hash covers the ids and labels of the rows with one of `statuses`: it is the same for two copies of Kinetics if
    and only if both have the same videos with the same labels.
    """
    chosen = set(statuses)
    rows = zip(*(list_of(ledger[name]) for name in ("video_id", "label", "status")), strict=True)
    used = sorted(f"{name},{label}\n" for name, label, status in rows if status in chosen)
    text = "".join(used)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    short = re.sub(r"^kinetics[-_]?(?=\d)", "k", dataset)
    split = "+".join(sorted(ledger["split"].unique(), key=SPLITS.index))
    return f"{short}-{split}@{digest} ({len(used):,} of {len(ledger):,})"
