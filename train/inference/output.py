"""Shows predictions: a table for people, JSON lines or a CSV for programs."""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import UserError
from pipeline.common.files import check_regular, replacing, try_folder
from pipeline.common.tables import write_rows
from pipeline.common.text import visible

_LONGEST_PATH, _LONGEST_LABEL = 60, 40  # characters of columns; a longer label moves what is after it


class Segment(NamedTuple):
    """A part of a long video with one class: its times in seconds, the class, and its mean smoothed score."""

    start_s: float
    end_s: float
    label: str
    score: float


@dataclass(frozen=True)
class Row:
    """What is known of one video.

    Attributes:
        path: as it was named.
        status: ok; or as in ledgers, what is wrong with the file; or too_short: it has no clip.
        reason: in words, if it is not ok.
        top: names of classes with their probabilities, best first.
        true_label: the name of its class; None: unknown.
        protocol: how clips were chosen.
        views_s: the seconds (start, end) that the network looked at.
        repeats: whether the video is shorter than a clip, so that its frames repeat.
        segments: of a video that was looked at window by window; of one that breaks off, those before.
        times_s: of such a video: the middle of each window, in seconds.
        scores: of such a video: the smoothed scores of the classes that lead somewhere, by name, one for each window.
        pictures: files that show the prediction.
    """

    path: str
    status: str
    reason: str = ""
    top: Sequence[tuple[str, float]] = ()
    true_label: str | None = None
    protocol: str = ""
    views_s: Sequence[tuple[float, float]] = ()
    repeats: bool = False
    segments: Sequence[Segment] | None = None
    times_s: Sequence[float] = ()
    scores: dict[str, list[float]] = field(default_factory=dict)
    pictures: Sequence[Path] = ()


def best_classes(probabilities: NDArray[np.floating], names: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The names and probabilities of the best of K classes, best first."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(names[number], float(probabilities[number])) for number in order]


def json_of(row: Row) -> str:
    """A row as one line of JSON in ASCII; a number that is not finite is null."""
    values: dict[str, Any] = {"path": row.path, "status": row.status}
    if row.reason:
        values["reason"] = row.reason
    values["top"] = [{"label": name, "probability": _finite(value)} for name, value in row.top]
    if row.true_label is not None:
        values["true_label"] = row.true_label
    if row.views_s:
        values["protocol"] = row.protocol
        values["views_s"] = [[round(start, 4), round(end, 4)] for start, end in row.views_s]
        values["frames_repeat"] = row.repeats
    if row.segments is not None:
        values["segments"] = [
            {"start_s": round(each.start_s, 4), "end_s": round(each.end_s, 4), "label": each.label,
             "score": _finite(each.score)}
            for each in row.segments
        ]  # fmt: skip
        values["times_s"] = [round(time_s, 4) for time_s in row.times_s]
        values["scores"] = {name: [_finite(value) for value in scores] for name, scores in row.scores.items()}
    if row.pictures:
        values["pictures"] = [str(path) for path in row.pictures]
    return json.dumps(values)


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None


def one_line(text: str) -> str:
    """A name in one line, whatever characters it has."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _columns(text: str) -> int:
    """The room that a name takes in one line: Chinese characters have that of two letters, and marks none."""
    text = one_line(text)
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else not unicodedata.combining(one) for one in text)


def _end_of(text: str, columns: int) -> str:
    """A text in one line; of one that takes more room, `...` and its end."""
    text = one_line(text)
    if _columns(text) <= columns:
        return text
    start = next(place for place in range(len(text)) if _columns(text[place:]) <= columns - 3)
    return f"...{text[start:]}"


def _cell(text: str, width: int) -> str:
    return one_line(text) + " " * (width - _columns(text))


class Table:
    """Prints rows as they come: all about a single video, or a line for each of several.

    Args:
        paths: of all videos, in order.
        names: of all classes.
        by_window: whether each is looked at window by window, and shown with its segments.
    """

    def __init__(self, paths: Sequence[str], names: Sequence[str], *, by_window: bool = False) -> None:
        self._single, self._by_window = len(paths) == 1, by_window
        self._width = min(max(map(_columns, ("video", *paths))), _LONGEST_PATH)
        self._label_width = min(max(map(_columns, ("prediction", *names))), _LONGEST_LABEL)
        self._begun = False

    @property
    def shows_reasons(self) -> bool:
        """Whether the rows say why a video is not ok."""
        return self._single or self._by_window

    def add(self, row: Row) -> None:
        """Print a row."""
        if self._by_window:
            self._print_segments(row)
        elif self._single:
            _print_single(row)
        else:
            self._print_line(row)

    def _print_line(self, row: Row) -> None:
        if not self._begun:
            print(f"{'video':{self._width}}  {'prediction':{self._label_width}}  probability  true label")
            self._begun = True
        path = _end_of(row.path, self._width)
        if row.status != "ok":
            print(f"{_cell(path, self._width)}  -  {row.status}", flush=True)
            return
        name, probability = row.top[0]
        note = "  (frames repeat)" if row.repeats else ""
        cells = (_cell(path, self._width), _cell(name, self._label_width), f"{probability:11.4f}")
        print("  ".join((*cells, one_line(row.true_label or "") + note)).rstrip(), flush=True)

    def _print_segments(self, row: Row) -> None:
        if not self._single:
            print(f"{one_line(row.path)}:")
        for each in row.segments or ():
            span, label = f"{_clock(each.start_s)} - {_clock(each.end_s)}", _cell(each.label, self._label_width)
            print(f"{span}  {label}  {each.score:.4f}")
        if row.status != "ok":
            print(f"{row.status}: {row.reason}", flush=True)
        _print_notes(row)


def _print_single(row: Row) -> None:
    if row.status != "ok":
        print(f"{one_line(row.path)}: {row.status}: {row.reason}")
        return
    for rank, (name, probability) in enumerate(row.top, start=1):
        print(f"{rank}. {one_line(name)}  {probability:.4f}")
    spans = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in row.views_s)
    print(f"looked at: {spans} ({row.protocol})")
    _print_notes(row)


def _print_notes(row: Row) -> None:
    if row.true_label is not None:
        print(f"true label: {one_line(row.true_label)}")
    if row.repeats:
        print("The video is shorter than a clip, so its frames repeat.")
    for path in row.pictures:
        print(f"picture: {one_line(str(path))}", flush=True)


def _clock(seconds: float) -> str:
    """Seconds as 0:01:02.50."""
    hundredths = round(100 * seconds)
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest / 100:05.2f}"


def try_file(path: Path, inputs: Iterable[str]) -> None:
    """Check, before hours of computing, that a file can be written.

    Args:
        path: the file.
        inputs: paths that are read, and so must not be replaced.

    Raises:
        UserError: it is one of `inputs`, a part of its path is a file, or its name is that of something else.
        OSError: its folder cannot be written.
    """
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise UserError(f"--csv: got {path}, which is an input. Give another file.")
    check_regular(path)
    try_folder(path.parent, "Give another file with --csv.")


def write_csv(path: Path, rows: Sequence[Row], top_k: int) -> None:
    """Write a line for each video; of videos that were looked at window by window one for each segment.

    Raises:
        OSError: the file cannot be written; an earlier one is unchanged.
    """
    by_window = any(row.segments is not None for row in rows)
    if by_window:
        lines = [["path", "status", "reason", "start_s", "end_s", "label", "score"]]
        for row in rows:
            lines += [
                [row.path, row.status, row.reason, f"{each.start_s:.3f}", f"{each.end_s:.3f}", each.label,
                 f"{each.score:.6f}"]
                for each in row.segments or ()
            ] or [[row.path, row.status, row.reason, "", "", "", ""]]  # fmt: skip
    else:
        ranks = [f"{what}_{rank}" for rank in range(1, top_k + 1) for what in ("predicted", "probability")]
        lines = [["path", "status", "reason", "true_label", "protocol", "views_s", "frames_repeat", *ranks]]
        for row in rows:
            views = ";".join(f"{start:.3f}-{end:.3f}" for start, end in row.views_s)
            repeats = str(row.repeats).lower() if row.status == "ok" else ""
            cells = [cell for name, probability in row.top for cell in (name, f"{probability:.6f}")]
            line = [row.path, row.status, row.reason, row.true_label or "", row.protocol, views, repeats, *cells]
            lines.append(line + [""] * (len(lines[0]) - len(line)))
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        write_rows(file, lines)
