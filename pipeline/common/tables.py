"""Checks label CSVs and ledgers: one report lists every bad value of every row.

pandera checks all rules on all rows (`lazy`) before anything is reported.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
        columns[name] = pd.Series(column.to_numpy() if number else texts_of(column), dtype=None if number else object)
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
    return (values if pd.api.types.is_numeric_dtype(values) else texts_of(values)).tolist()


def texts_of(column: pd.Series) -> NDArray:
    """A column as an array of Python objects; to_numpy and tolist would look for missing values first."""
    return np.asarray(column.array, dtype=object)


def full_matches(pattern: str, column: pd.Series) -> pd.Series:
    """Which texts match `pattern` completely; all texts are searched at once first, since nearly always all match."""
    texts = column.tolist()
    joined = "\n".join(texts)
    if joined.count("\n") == len(texts) - 1 and not re.search(rf"(?m)^(?!(?:{pattern})$)", joined):
        return pd.Series(True, index=column.index)
    match = re.compile(pattern).fullmatch
    return pd.Series([match(text) is not None for text in texts], index=column.index, dtype=bool)


TOO_LONG = re.compile(r"Expected (?P<expected>\d+) fields in line (?P<line>\d+), saw (?P<got>\d+)")  # pandas' words
_UNCLOSED = re.compile(r"EOF inside string starting at row (\d+)")


CSV_ERRORS = (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError)
"""What pandas raises for a file that is no CSV; the warning where it is made an error."""


def csv_problem(error: Exception) -> str:
    """What is wrong with a file that is no CSV (one of CSV_ERRORS), in our words."""
    if isinstance(error, pd.errors.ParserWarning):
        return "line 2 has more values than the header"
    if isinstance(error, pd.errors.EmptyDataError):
        return "the file is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"
    if match := TOO_LONG.search(str(error)):
        return f"line {match['line']} has {match['got']} values, expected {match['expected']}"
    if match := _UNCLOSED.search(str(error)):
        return f"the quote that begins in line {int(match[1]) + 1} does not end"
    return "not a table of comma-separated values"


def check_lines(path: Path, num_rows: int | None, encoding: str = "utf-8-sig", delimiter: str = ",") -> None:
    """Check that each row of a person's CSV is one line.

    A quote without its partner makes one value of all rows up to the next quote, and no reader of CSVs objects.

    Args:
        path: the file.
        num_rows: rows that were read from it, blank ones and the header too; None: it could not be read.
        encoding: of the file.
        delimiter: between its values.

    Raises:
        InputError: some rows take several lines (all of them are listed), or the file has a NUL byte.
    """
    content = path.read_bytes()
    if encoding == "utf-16":
        content = content.decode(encoding, "replace").encode()
    if (place := content.find(b"\0")) >= 0:
        raise InputError(f"{path}:{_num_lines(content[: place + 1])}: got a NUL byte, expected text. Fix the file.")
    if num_rows is not None and num_rows >= _num_lines(content):
        return
    bad_values = []
    with io.StringIO(content.decode("utf-8-sig", "replace"), newline="") as text:
        reader = csv.reader(text, delimiter=delimiter)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error:  # a value beyond csv.field_size_limit
                row = ["\n"]
            if row is None:
                break
            if reader.line_num > line:
                value = next((value for value in row if "\n" in value or "\r" in value), "")
                rule = f"a value on one line; it ends in line {reader.line_num}, so a quote is missing or too many"
                bad_values.append(
                    BadValue(str(path), line, "line", value if len(value) <= 60 else f"{value[:57]}...", rule)
                )
    if bad_values:
        raise InputError(f"{path}: {len(bad_values):,} rows take several lines. Fix the quotes.", bad_values)


def _num_lines(content: bytes) -> int:
    ends = content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
    return ends + (content[-1:] not in (b"\n", b"\r", b""))


def label_checks(unlabelled: pd.Series) -> list[pa.Check]:
    """The rules of a column of labels; the rows in `unlabelled` need none."""
    return [
        expect("a label", lambda label: label.ne("") | unlabelled),
        expect("a label on one line", lambda label: full_matches(r"[^\r\n\0]*", label)),
    ]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write any table as CSV, atomically; its folder is made if it is missing.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        # Three times as fast as DataFrame.to_csv; both print a float as repr does.
        columns = [list_of(table[name]) for name in table.columns]
        write_rows(file, itertools.chain([table.columns], zip(*columns, strict=True)))


class _LineFeeds:
    """A text file that writes the line feed only of lines that end with a carriage return and a line feed."""

    def __init__(self, file: TextIO) -> None:
        self._write = file.write

    def write(self, line: str) -> int:
        return self._write(line[:-2] + "\n")


def write_rows(file: TextIO, rows: Iterable[Iterable[object]]) -> None:
    """Write the rows of a CSV; `file` is open with newline="".

    A text with a line feed, or with a carriage return, which also ends a line for readers, is quoted: csv.writer only
    does that with the characters of its own line end.
    """
    csv.writer(_LineFeeds(file), lineterminator="\r\n").writerows(rows)
