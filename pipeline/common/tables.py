"""Checks label CSVs and ledgers: one report lists every bad value of every row.

pandera checks all rules on all rows (`lazy`) before anything is reported.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from pipeline.common.errors import UserError
from pipeline.common.files import replacing

if TYPE_CHECKING:
    import pandera.pandas as pa

OUTSIDE = r"^/|^[A-Za-z]:|\\|(?:^|/)\.\.(?:/|$)"  # paths outside data_root: absolute, with a drive, or with `..`
_SHOWN = 1000  # bad values that are printed; --json prints all


class BadValue(NamedTuple):
    """One value that breaks one rule.

    Attributes:
        file: the table's file.
        row: its line in that file; the header is line 1.
        column: name of the column, or of several.
        value: the value in the file.
        rule: what was expected.
    """

    file: str
    row: int
    column: str
    value: str
    rule: str

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.column}: got {self.value!r}, expected {self.rule}"


class InputError(UserError):
    """Label files, ledgers, videos or shards that are missing, malformed or contradict each other.

    Attributes:
        message: what is wrong, in one line.
        details: further lines.
        bad_values: every bad value, sorted, if the error is about values.
    """

    def __init__(self, message: str, bad_values: Iterable[BadValue] = (), details: Iterable[str] = ()) -> None:
        self.message = message
        self.details = list(details)
        self.bad_values = sorted(set(bad_values))
        lines = [f"  {line}" for line in (*self.details, *self.bad_values[:_SHOWN])]
        if len(self.bad_values) > _SHOWN:
            lines.append(f"  ... and {len(self.bad_values) - _SHOWN:,} more. --json prints them all.")
        super().__init__("\n".join([message, *lines]))


def collect(schema: pa.DataFrameSchema, table: pd.DataFrame, file: str, rows: Sequence[int]) -> list[BadValue]:
    """Every value of `table` that breaks a rule of `schema`.

    Args:
        schema: its rules; the `error` of each check is what was expected.
        table: any table; its index is ignored.
        file: name of the table's file, for the report.
        rows: line of each row of `table` in that file.
    """
    from pandera.errors import SchemaErrors

    table = plain(table)
    try:
        schema.validate(table, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
    else:
        return []
    bad_values = []
    for column, check, index, value in zip(
        cases["column"], cases["check"], cases["index"], cases["failure_case"], strict=True
    ):
        row = int(rows[int(index)]) if pd.notna(index) else 1
        bad_values.append(BadValue(file, row, str(column), str(value), _rule(str(check))))
    return bad_values


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with index 0..n-1 and texts as plain Python objects, on which pandas is several times as fast."""
    columns = {}
    for name in table.columns:
        column = table[name]
        number = pd.api.types.is_numeric_dtype(column)
        columns[name] = pd.Series(
            column.to_numpy() if number else column.to_numpy(object), dtype=None if number else object
        )
    return pd.DataFrame(columns, copy=False)


def _rule(check: str) -> str:
    """What a check of pandera expects, in words; the text of our own checks is returned unchanged."""
    for word, rule in {
        "not_nullable": "a value",
        "field_uniqueness": "a value that no other row has",
    }.items():
        if check.startswith(word):
            return rule
    return check


def expect(rule: str, test: Callable[[pd.Series], pd.Series]) -> pa.Check:
    """A check of a whole column; `rule` is what was expected.  Tables have no nulls, so pandera looks for none."""
    import pandera.pandas as pa

    return pa.Check(test, error=rule, ignore_na=False)


def inside(path: pd.Series) -> pd.Series:
    """Which paths are inside data_root."""
    joined = "\n".join(["", *path.tolist()])
    if not any(part in joined for part in ("\n/", "..", ":", "\\")):  # nearly always true, and fast
        return pd.Series(True, index=path.index)
    return ~path.str.contains(OUTSIDE)


def list_of(values: Iterable) -> list:
    """A column as Python values, fast."""
    if not isinstance(values, pd.Series):
        return list(values)
    # tolist of a text column would look for missing values first.
    return (values if pd.api.types.is_numeric_dtype(values) else values.to_numpy(object)).tolist()


def full_matches(pattern: str, column: pd.Series) -> pd.Series:
    """Which texts match `pattern` completely; all texts are searched at once first, since nearly always all match."""
    texts = column.tolist()
    joined = "\n".join(texts)
    if joined.count("\n") == len(texts) - 1 and not re.search(rf"(?m)^(?!(?:{pattern})$)", joined):
        return pd.Series(True, index=column.index)
    match = re.compile(pattern).fullmatch
    return pd.Series([match(text) is not None for text in texts], index=column.index, dtype=bool)


_TOO_LONG = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")  # pandas' words
_UNCLOSED = re.compile(r"EOF inside string starting at row (\d+)")


def csv_problem(error: Exception) -> str:
    """What is wrong with a CSV that pandas cannot read, in our words."""
    if isinstance(error, pd.errors.EmptyDataError):
        return "the file is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"
    if match := _TOO_LONG.search(str(error)):
        return f"line {match[2]} has {match[3]} values, expected {match[1]}"
    if match := _UNCLOSED.search(str(error)):
        return f"the quote that begins in line {int(match[1]) + 1} does not end"
    return "not a table of comma-separated values"


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write any table as CSV, atomically; its folder is made if it is missing.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        # Three times as fast as DataFrame.to_csv; both print a float as repr does.
        columns = [list_of(table[name]) for name in table.columns]
        # csv.writer quotes a text with a line feed and not one with a carriage return, which also ends a line.
        returns = any("\r" in "".join(column) for column in columns if column and isinstance(column[0], str))
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)
        writer.writerow(table.columns)
        writer.writerows(zip(*columns, strict=True))
