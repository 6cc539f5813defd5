"""A ledger as a file and a table: read, write, fill in, and name what is in it.

<manifests>/<dataset>/<split>.csv      one row for every row of the label CSVs
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.common.tables import InputError, list_of, write_table
from pipeline.common.text import some
from pipeline.ledger.schema import BAD_STATUSES, COLUMNS, LEARNED, typed, validate

_OLD_RETRY = "to be tried again: "


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
        InputError: it is not there, is not a ledger, or has faulty values (all of them are listed).
    """
    path = Path(path)
    table, faults = typed(_read_rows(path), str(path))
    _retries_by_status(table)
    validate(table, str(path), faults)
    return table


def read_ledgers(settings: Preprocess) -> dict[str, pd.DataFrame]:
    """The ledgers of a dataset by split.

    Raises:
        InputError: there is none, or some are faulty: all faults of all of them.
    """
    return read_ledgers_at({split: ledger_path(settings, split) for split in SPLITS})


def read_ledgers_at(paths: dict[str, Path]) -> dict[str, pd.DataFrame]:
    """The ledgers that are there, by split.

    Raises:
        InputError: none is, or some are faulty: all faults of all of them.
    """
    there = {split: path for split, path in paths.items() if path.is_file()}
    if not there:
        raise InputError(f"{next(iter(paths.values())).parent}: no ledgers here; run `make manifests`")
    ledgers, errors = {}, []
    for split, path in there.items():
        try:
            ledgers[split] = read_ledger(path)
        except InputError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        said = "; ".join(error.message for error in errors)
        raise InputError(said, [fault for error in errors for fault in error.faults])
    return ledgers


def _retries_by_status(table: pd.DataFrame) -> None:
    """Until 2026-11 what is `retry` now was `pending`, and told by the beginning of its reason."""
    old = table["status"].eq("pending") & table["reason"].str.startswith(_OLD_RETRY)
    if old.any():
        table.loc[old, "status"] = "retry"
        table.loc[old, "reason"] = table.loc[old, "reason"].str.removeprefix(_OLD_RETRY)


def read_columns(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Some columns of a ledger, held to their types but not to the rules: `read` takes five times as long.

    Raises:
        InputError: as `read`.
    """
    table = _read_rows(path, names)
    numbers_only = all(COLUMNS[name] == "str" or pd.api.types.is_numeric_dtype(table[name]) for name in names)
    return table if numbers_only else read_ledger(path)  # which lists what is no number


def _read_rows(path: Path, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows as they stand, all columns or some; as text, if some value is no number."""
    try:
        header = list(pd.read_csv(path, nrows=0, encoding="utf-8").columns)
        absent = [name for name in COLUMNS if name not in header]  # those that a ledger of an earlier version lacks
        if header != [name for name in COLUMNS if name in header] or not set(absent) <= set(LEARNED[1:]):
            wrong = sorted(set(header).symmetric_difference(COLUMNS)) or ["order of columns"]
            raise InputError(f"{path}:1: not a ledger ({', '.join(wrong)}); `make manifests` builds one")
        wanted = list(COLUMNS) if names is None else list(names)
        there = [name for name in wanted if name in header]
        read_csv = functools.partial(pd.read_csv, path, usecols=there, na_filter=False, encoding="utf-8")
        try:
            table = read_csv(dtype=COLUMNS, float_precision="round_trip")
        except (pd.errors.ParserError, UnicodeDecodeError):
            raise
        except (ValueError, OverflowError):  # some value is no number: read again as text, to list them all
            table = read_csv(dtype=str)
        if len(there) < len(wanted):
            table = pd.concat([table, blank_rows(len(table))[[name for name in wanted if name in absent]]], axis=1)
            table = table[[name for name in COLUMNS if name in wanted]]
        return table
    except FileNotFoundError:
        raise InputError(f"{path}: no such ledger; run `make manifests`") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a ledger: {str(error).strip()}; `make manifests` rebuilds it") from None


def write_ledger(path: Path | str, ledger: pd.DataFrame) -> None:
    """Write a ledger, sorted; readers see the old file or the new one, whole; same table, same bytes.

    Raises:
        InputError: the table is not a valid ledger; nothing is written.
    """
    write_ledgers({Path(path): ledger})


def write_ledgers(ledgers: dict[Path, pd.DataFrame], valid: Collection[Path] = ()) -> None:
    """Write several ledgers, when all of them are valid.

    Args:
        ledgers: by path.
        valid: those of the paths whose ledger was validated before, and is not again.

    Raises:
        InputError: one is not a valid ledger; none is written.
    """
    tables = {path: _sorted(ledger.loc[:, list(COLUMNS)]) for path, ledger in ledgers.items()}
    for path, table in tables.items():
        if path not in valid:
            validate(table, str(path))
    for path, table in tables.items():
        write_table(path, table)


def _sorted(ledger: pd.DataFrame) -> pd.DataFrame:
    if ledger["video_id"].is_monotonic_increasing:
        return ledger.reset_index(drop=True)
    return ledger.sort_values("video_id", kind="stable", ignore_index=True)


def blank_rows(num_rows: int) -> pd.DataFrame:
    """The learned columns of rows about which nothing is known."""
    zeros = {"str": "", "int64": 0, "float64": 0.0}
    return pd.DataFrame({name: pd.Series([zeros[COLUMNS[name]]] * num_rows, dtype=COLUMNS[name]) for name in LEARNED})


def fill_ledger(ledger: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Copy into a ledger what shards say became of its videos.

    `preprocess` and a rebuild both come here, so that they write the same bytes.

    Args:
        ledger: any ledger.
        outcomes: `video_id` and the columns of LEARNED (`store.outcomes_table`), one row a video.

    Returns:
        A new ledger; rows that `outcomes` does not name are as they were.

    Raises:
        InputError: an outcome is of a video that is not in the ledger, or a video has two.
    """
    ids = outcomes["video_id"]
    rows = pd.Index(ledger["video_id"]).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(f"in a shard, not in the ledger: {some(ids[rows < 0])}; run `make manifests`")
    if ids.duplicated().any():
        raise InputError(f"in two shards: {some(ids[ids.duplicated()])}; run `make verify`")
    known = ledger["status"].to_numpy("object")[rows] == "missing"
    fresh = ~(
        known & outcomes["status"].eq("missing").to_numpy()
    )  # the ledger says why it is missing, a shard does not
    rows, outcomes = rows[fresh], outcomes[fresh]
    filled = ledger.copy()
    for name in LEARNED:
        kind = "object" if COLUMNS[name] == "str" else COLUMNS[name]
        values, told = ledger[name].to_numpy(kind, copy=True), outcomes[name].to_numpy(kind)
        # A ledger row is one line, whatever a decoder's message holds.
        values[rows] = [" ".join(str(text).split()) for text in told] if name == "reason" else told
        filled[name] = pd.Series(values, index=ledger.index, dtype=COLUMNS[name])
    filled.loc[filled["status"] == "missing", "path"] = ""  # it was there when the ledger was made, and went
    return filled


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
    """The label of each label_id, 0 first; empty for an id that no row has (a subset keeps its parent's ids).

    Raises:
        InputError: one label_id has two labels.
    """
    pairs = pd.concat([ledger[["label_id", "label"]] for ledger in ledgers]).drop_duplicates()
    pairs = pairs[pairs["label_id"] >= 0].sort_values(["label_id", "label"])
    twice = pairs[pairs["label_id"].duplicated(keep=False)].head(10)
    if len(twice):
        said = "; ".join(f"{one} is {label!r}" for one, label in zip(twice["label_id"], twice["label"], strict=True))
        raise InputError(f"ledgers of different class lists: {said}; `make manifests` rebuilds them together")
    names = [""] * (int(pairs["label_id"].max()) + 1 if len(pairs) else 0)
    for label_id, label in zip(pairs["label_id"], pairs["label"], strict=True):
        names[label_id] = label
    return names


def identity(dataset: str, ledger: pd.DataFrame, statuses: Iterable[str] = ("ok",)) -> str:
    """Which videos a number was computed on: `k400-val@1f2e3d4c (19,404 of 19,906)`.

    The hash is of the ids and labels of the rows with one of `statuses`: two copies of Kinetics share it
    when, and only when, they hold the same videos with the same labels.
    """
    chosen = set(statuses)
    rows = zip(*(list_of(ledger[name]) for name in ("video_id", "label", "status")), strict=True)
    used = sorted(f"{name},{label}\n" for name, label, status in rows if status in chosen)
    text = "".join(used)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    short = re.sub(r"^kinetics[-_]?(?=\d)", "k", dataset)
    split = "+".join(sorted(ledger["split"].unique(), key=SPLITS.index))
    return f"{short}-{split}@{digest} ({len(used):,} of {len(ledger):,})"
