"""Defines a ledger: its columns, its statuses and the rules for its values, as a pandera schema.

`data_manifests/README.md` is the data dictionary.  Text stays text (644 ids of Kinetics-400 val start with `-`, others
look like numbers).  An unknown number is 0 and an unknown text is empty, so that the same facts give the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.common.outcome import OUTCOME_TYPES, STATUSES
from pipeline.common.recipe import SPLITS
from pipeline.common.tables import BadValue, InputError, collect, expect, full_matches, inside, plain, texts_of
from pipeline.common.video_id import ID_PATTERN, ID_RULE, video_ids

if TYPE_CHECKING:  # imported where rules are made: training makes none, and saves 10 MiB of memory
    import pandera.pandas as pa

# All columns in order, each with its dtype.  OUTCOME_COLUMNS are the fields of an Outcome.
_DTYPES = {str: "str", int: "int64", float: "float64"}
OUTCOME_COLUMNS = {name: _DTYPES[kind] for name, kind in OUTCOME_TYPES.items() if name != "video_id"}
PLACE_COLUMNS = {"shard": "str", "offset": "int64", "nbytes": "int64", "crc32": "int64"}
COLUMNS: dict[str, str] = {
    "video_id": "str", "youtube_id": "str", "time_start": "int64", "time_end": "int64", "label": "str",
    "label_id": "int64", "split": "str", "path": "str", **OUTCOME_COLUMNS, **PLACE_COLUMNS,
}  # fmt: skip
WAITING_STATUSES = STATUSES[:2]  # `make preprocess` decodes these: for the first time, or again
BAD_STATUSES = STATUSES[4:]
# Part of the format, never written: no decoder here repeats frames, and a short video is stored at its own length.
UNWRITTEN_STATUSES = ("duplicated_frames", "too_short")

# The largest value of each number that something is reserved or read by; the smallest is 0, or -1 for label_id.
_MOST = {
    "time_start": 10**9, "time_end": 10**9, "label_id": 99_999, "num_frames": 10**7, "nbytes": 2**40,
    "crc32": 2**32 - 1, "source_crc32": 2**32 - 1,
}  # fmt: skip

# Known only from decoding; all other columns come from the label CSVs and the names of files.
LEARNED = (*OUTCOME_COLUMNS, *PLACE_COLUMNS)
# Those of LEARNED that describe stored frames.
STORED_COLUMNS = ("num_frames", "fps", "decoder", "chosen_by", *PLACE_COLUMNS)

SHARD_PATTERN = rf"(?:{'|'.join(SPLITS)})-\d{{5,}}-of-\d{{5,}}\.h5"


def validate(ledger: pd.DataFrame, file: str, bad_values: Sequence[BadValue] = ()) -> None:
    """Check a ledger against the schema.

    Args:
        ledger: the columns and dtypes of COLUMNS, index 0..n-1.
        file: its name in the report.
        bad_values: those found while it was read.

    Raises:
        InputError: with every bad value of every row.
    """
    unreadable = {bad.row for bad in bad_values}  # in these rows, other errors may only follow from the first
    rows = range(2, len(ledger) + 2)
    ledger = plain(ledger)
    broken_rules = [bad for bad in collect(_schema(ledger), ledger, file, rows) if bad.row not in unreadable]
    if errors := [*bad_values, *broken_rules]:
        message = f"{file}: not a valid ledger: {len(errors):,} errors. Run `make manifests` to rebuild it."
        raise InputError(message, errors)


def typed(table: pd.DataFrame, file: str) -> tuple[pd.DataFrame, list[BadValue]]:
    """A ledger in the dtypes of COLUMNS; text that is not a number becomes 0 and is returned as a bad value."""
    bad_values = []
    for name, dtype in COLUMNS.items():
        if dtype == "str" or pd.api.types.is_numeric_dtype(table[name]):
            continue
        numbers = pd.to_numeric(table[name], errors="coerce").astype("float64")
        good = np.isfinite(numbers)
        if dtype == "int64":
            good &= (numbers % 1 == 0) & (numbers.abs() < 2**63)
        rule = "a whole number" if dtype == "int64" else "a number"
        bad_values += [BadValue(file, int(row) + 2, name, table[name][row], rule) for row in np.flatnonzero(~good)]
        table[name] = numbers.where(good, 0).astype(dtype)
    return table, bad_values


def _in_order(ids: pd.Series) -> pd.Series:
    if ids.is_monotonic_increasing:
        return pd.Series(True, index=ids.index)
    return ids.ge(ids.shift(fill_value=""))


def _first_of(keys: pd.Series, values: pd.Series) -> pd.Series:
    """Which values are equal to that of the first row with the same key."""
    if len(pd.DataFrame({"key": keys, "value": values}).drop_duplicates()) == keys.nunique():
        return pd.Series(True, index=keys.index)
    return values.groupby(keys).transform("first").eq(values)


def _schema(ledger: pd.DataFrame) -> pa.DataFrameSchema:
    """The rules of a ledger; rules between columns read `ledger` itself."""
    import pandera.pandas as pa

    rules = _own_rules()
    for name, checks in _cross_rules(ledger).items():
        rules[name] = [*rules.get(name, []), *checks]
    columns = {
        name: pa.Column(None if dtype == "str" else dtype, rules.get(name), unique=name == "video_id")
        for name, dtype in COLUMNS.items()
    }
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


def _own_rules() -> dict[str, list[pa.Check]]:
    """Rules for one column."""
    rules = {
        "video_id": [
            expect("a name without slashes", lambda ids: full_matches(r"[^/\\\x00-\x1f]+", ids)),
            expect("rows sorted by video_id", _in_order),
        ],
        "split": [
            expect(" | ".join(SPLITS), lambda split: split.isin(SPLITS)),
            expect("one split a ledger", lambda split: split.eq(split.iloc[0])),
        ],
        "path": [expect("a path inside data_root", inside)],
        "status": [expect(" | ".join(STATUSES), lambda status: status.isin(STATUSES))],
        **dict.fromkeys(("source_crc32", "crc32"), [expect("at most 4294967295", lambda value: value.lt(2**32))]),
    }
    for name, dtype in COLUMNS.items():
        if dtype == "str":
            check = expect("text without NUL that UTF-8 can hold", _storable)
        else:
            rule = f"{_least(name)} to {_MOST[name]:,}" if name in _MOST else "at least 0 and finite"
            check = expect(rule, functools.partial(_in_range, name))
        rules[name] = [check, *rules.get(name, [])]
    return rules


def _least(name: str) -> int:
    return -1 if name == "label_id" else 0


def _in_range(name: str, values: pd.Series) -> pd.Series:
    array = values.to_numpy()
    most = _MOST.get(name, np.finfo("float64").max if array.dtype.kind == "f" else None)
    in_range = array >= _least(name)  # nan is in no range
    return pd.Series(in_range if most is None else in_range & (array <= most), index=values.index)


def _storable(texts: pd.Series) -> pd.Series:
    """Which texts a CSV in UTF-8 gives back as they are; all are tested at once first."""
    if _is_storable("".join(texts.tolist())):
        return pd.Series(True, index=texts.index)
    return pd.Series([_is_storable(text) for text in texts], index=texts.index, dtype=bool)


def _is_storable(text: str) -> bool:
    return "\0" not in text and (text.isascii() or text == text.encode(errors="replace").decode())


def is_plausible(ledger: pd.DataFrame) -> bool:
    """Whether some columns of a ledger keep the rules that training depends on; a tenth of the time of reading them.

    Args:
        ledger: any columns of COLUMNS, as read from a file, index 0..n-1.
    """
    numbers = [name for name in ledger.columns if COLUMNS[name] != "str"]
    if not all(pd.api.types.is_numeric_dtype(ledger[name]) for name in numbers):
        return False
    for name in numbers:  # nan is in no range
        values = ledger[name].to_numpy()
        if not (values.min() >= _least(name) and values.max() <= _MOST.get(name, np.finfo("float64").max)):
            return False
    texts = {name: texts_of(ledger[name]) for name in ledger.columns if name not in numbers}
    for name, allowed in (("status", STATUSES), ("split", SPLITS)):
        if name in texts and not set(texts[name]) <= set(allowed):
            return False
    if "split" in texts and len(set(texts["split"])) > 1:
        return False
    ids = texts.get("video_id")
    if ids is not None and not (ids[1:] > ids[:-1]).all():  # in order, and none twice
        return False
    if {"label", "label_id"} <= set(ledger.columns) and not (
        (texts["label"] != "") == (ledger["label_id"].to_numpy() >= 0)
    ).all():
        return False
    if "shard" in texts and not _shards(pd.Series([name for name in set(texts["shard"]) if name], dtype="str")).all():
        return False
    stored = texts["status"] == "ok" if "status" in texts else np.zeros(len(ledger), bool)
    without_frames = "num_frames" in numbers and (ledger["num_frames"].to_numpy()[stored] == 0).any()
    without_shard = "shard" in texts and (texts["shard"][stored] == "").any()
    return not (without_frames or without_shard)


def _cross_rules(ledger: pd.DataFrame) -> dict[str, list[pa.Check]]:
    """Rules between columns, by the column that an error names."""
    labels, label_ids, status = ledger["label"], ledger["label_id"], ledger["status"]
    stored = status.eq("ok")
    rules = {
        "label": [expect("a label where label_id is not -1", lambda label: label.ne("").eq(label_ids.ge(0)))],
        "label_id": [
            expect("one label_id a label", lambda value: _first_of(labels, value)),
            expect("one label a label_id", lambda value: _first_of(value, labels)),
        ],
        "path": [
            expect(
                "a path where status is pending or retry", lambda path: path.ne("") | ~status.isin(WAITING_STATUSES)
            ),
            expect("no path where status is missing", lambda path: path.eq("") | status.ne("missing")),
        ],
        "shard": [expect("a shard's file name", lambda name: _shards(name) | name.eq("") & ~stored)],
        "num_frames": [expect("at least 1 where status is ok", lambda value: value.gt(0) | ~stored)],
    }
    if ledger["youtube_id"].ne("").any():  # Kinetics; own videos have no YouTube ids
        start, end = ledger["time_start"], ledger["time_end"]
        expected = video_ids(ledger["youtube_id"], start, end)
        rules["youtube_id"] = [expect(ID_RULE, lambda ids: full_matches(ID_PATTERN, ids))]
        rules["video_id"] = [
            expect("{youtube_id}_{start:06d}_{end:06d}", lambda ids: ids.eq(pd.Series(expected, dtype=object)))
        ]
        rules["time_end"] = [expect("after time_start", lambda end: end.gt(start))]
    return rules


def _shards(names: pd.Series) -> pd.Series:
    """Which names are those of shards; each distinct name is tested once."""
    unique = pd.Series(names.unique(), dtype="str")
    return names.isin(unique[full_matches(SHARD_PATTERN, unique)])
