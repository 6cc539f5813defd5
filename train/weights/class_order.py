"""Reads a list of class names, and gives it to weights without names or puts the last layer into its order."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
from mindspore import nn

from pipeline.common.errors import UserError
from pipeline.common.files import open_to_read
from pipeline.common.text import shown, some

_NUMBERED = re.compile(r"(\d+)[.):]?[ \t,;]+(.+)")
_NUMBER_LAST = re.compile(r".*[\s,;](\d+)")
_LONGEST = 1 << 20  # bytes of a list; Kinetics-700's has 12 KB


def read_class_order(path: Path) -> list[str]:
    """The names of a class list, first output first.

    The file has a name on each line, or a number and a name (all from 0 or all from 1, in any order), or is a CSV with
    the columns label_id and label.  Names may be quoted as in a CSV.

    Raises:
        UserError: it is missing, empty, too large, no text, has numbers elsewhere, or a name or a number is there twice
            or lacks.
        OSError: it cannot be read.
    """
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.exists() else "not found"
        raise UserError(f"--class-order: {path} {what}. Give a file with a class name on each line.")
    try:
        with open_to_read(path) as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise UserError(f"--class-order: {path} is larger than {_LONGEST:,} bytes, so it is no list of classes.")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"--class-order: {path} is not UTF-8 at byte {error.start}.") from None
    rows = [(row, line.strip()) for row, line in enumerate(text.splitlines(), start=1) if line.strip()]
    numbered: list[tuple[int, str, str]] = []  # row, number, name
    header = _cells(path, *rows[0]) if rows else []
    if {"label_id", "label"} <= set(header):
        for row, line in rows[1:]:
            cells = dict(zip(header, _cells(path, row, line), strict=False))
            numbered.append((row, cells.get("label_id", ""), cells.get("label", "")))
    elif rows and all(_NUMBERED.fullmatch(line) for _, line in rows):
        numbered = [(row, match[1], _unquoted(match[2])) for row, line in rows if (match := _NUMBERED.fullmatch(line))]
    else:
        _check_without_numbers(path, rows)
        numbered = [(row, str(place), _unquoted(line)) for place, (row, line) in enumerate(rows)]
    return _in_order(path, numbered)


def _unquoted(name: str) -> str:
    """A name without the quotes that a CSV puts around it."""
    return name[1:-1].replace('""', '"') if len(name) > 1 and name[0] == name[-1] == '"' else name


def _check_without_numbers(path: Path, rows: Sequence[tuple[int, str]]) -> None:
    """Check that no lines begin with numbers or end with numbers of their own which their order would contradict.

    Raises:
        UserError: they do.
    """
    without = [(row, line) for row, line in rows if not _NUMBERED.fullmatch(line)]
    if without and 2 * len(without) < len(rows):
        row, line = without[0]
        raise UserError(
            f"--class-order: {path}:{row}: got {shown(line)}, expected a number and a name, as on most lines. "
            "Give a number on every line or on none."
        )
    numbers = [int(match[1]) for _, line in rows if (match := _NUMBER_LAST.fullmatch(line)) and len(match[1]) < 9]
    count = len(rows)
    if len(numbers) == count > 1 and sorted(numbers) in (list(range(count)), list(range(1, count + 1))):
        if numbers != sorted(numbers) or any(re.search(r"[,;\t]\s*\d+$", line) for _, line in rows):
            raise UserError(
                f"--class-order: {path}:{rows[0][0]}: got {shown(rows[0][1])}, expected a name, or first its number. "
                "Give a CSV with the columns label_id and label."
            )


def _cells(path: Path, row: int, line: str) -> list[str]:
    """The cells of a line of a CSV."""
    try:
        return next(csv.reader([line]))
    except csv.Error as error:  # a value beyond csv.field_size_limit
        raise UserError(f"--class-order: {path}:{row}: {error}, expected a class name. Correct it.") from None


def _in_order(path: Path, rows: Sequence[tuple[int, str, str]]) -> list[str]:
    if not rows:
        raise UserError(f"--class-order: {path} has no class names.")
    first = 0 if any(re.fullmatch("0+", number) for _, number, _ in rows) else 1
    names = [""] * len(rows)
    row_of: dict[str, int] = {}
    for row, number, name in rows:
        place = int(number) - first if number.isascii() and number.isdigit() and len(number) < 9 else -1
        if not 0 <= place < len(names) or names[place]:
            raise UserError(
                f"--class-order: {path}:{row}: got the number {shown(number)}, expected each of {first} to "
                f"{len(rows) - 1 + first} once."
            )
        if not name or name in row_of:
            again = f", which is also on line {row_of[name]}" if name else ""
            raise UserError(
                f"--class-order: {path}:{row}: got the class {shown(name)}{again}, expected each name once."
            )
        names[place], row_of[name] = name, row
    return names


def order_classes(network: nn.Cell, present: Sequence[str], wanted: Sequence[str], source: Path) -> str:
    """Put the outputs of `network.fc` into the order of `wanted`, in place; returns what was done, for a log.

    Args:
        network: has the weights of `source`.
        present: the names of its outputs; empty: unknown, and `wanted` are these names.
        wanted: the names in their new order.
        source: the file of the weights.

    Raises:
        UserError: the names are not the same, or not as many as the outputs.
    """
    outputs = network.fc.weight.shape[0]
    if len(wanted) != outputs:
        raise UserError(f"--class-order: got {len(wanted)} classes, but {source} has {outputs}.")
    if not present:
        return "the outputs had no names; they now have those of the class list, in the same order"
    if sorted(present) != sorted(wanted):
        unknown, missing = sorted(set(wanted) - set(present)), sorted(set(present) - set(wanted))
        raise UserError(
            f"--class-order: the classes are not those of {source}. Only in the list: {some(map(shown, unknown))}. "
            f"Only in the weights: {some(map(shown, missing))}."
        )
    place = {name: index for index, name in enumerate(present)}
    order = [place[name] for name in wanted]
    for parameter in (network.fc.weight, network.fc.bias):
        parameter.set_data(ms.Tensor(parameter.asnumpy()[order]))
    moved = sum(index != new for new, index in enumerate(order))
    return f"{moved} of {outputs} outputs moved into the order of the class list"
