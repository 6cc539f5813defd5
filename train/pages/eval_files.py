"""Reads the files of an evaluation; what is missing or corrupted in them is one sentence."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class CorruptedError(Exception):
    """Why a file of an evaluation cannot be used, as a sentence."""


@dataclass(frozen=True)
class Evaluation:
    """The files of one evaluation.

    Attributes:
        run: number of its run.
        folder: of its files.
        summary: of summary.json.
        written: when, in seconds since 1970.
    """

    run: int
    folder: Path
    summary: dict[str, Any]
    written: float


def rows_of(path: Path, columns: Sequence[str], made_of: Callable[..., T]) -> list[T]:
    """What is made of the texts in these columns of a CSV, for each row."""
    with reading(path) as lines:
        head = next(lines)
        places = [head.index(name) for name in columns]
        return [made_of(*(line[place] for place in places)) for line in lines]


@contextmanager
def reading(path: Path) -> Iterator[Iterator[list[str]]]:
    """The lines of a CSV; every error of reading them is one sentence.

    Raises:
        FileNotFoundError: it is missing.
        CorruptedError: it is not what `make eval` writes.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            yield csv.reader(file)
    except (ArithmeticError, ValueError, LookupError, StopIteration, csv.Error) as error:
        raise CorruptedError(f"{path}: corrupted: {str(error) or 'it is empty'}. Run `make eval` again.") from None


def matrix_of(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The names of K classes, and the videos by label and prediction, (K, K)."""
    with reading(path) as lines:
        names = next(lines)[1:]
        counts = np.array([[int(cell) for cell in line[1:]] for line in lines], np.int64)
        if counts.shape != (len(names), len(names)) or (counts < 0).any():
            raise ValueError(f"{len(names)} classes, but numbers of the shape {counts.shape}")
    return names, counts
