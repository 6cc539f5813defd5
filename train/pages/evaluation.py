"""The page of evaluations: protocols, classes, confusions, and the errors that are worst or most confident as clips."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.common.recipe import SPLITS
from train.experiment.sections import Config
from train.pages import charts, numbers
from train.pages.blocks import Bars, Block, Heat, Note, Numbers, Page, Picture, Pictures, Section, Table, table_of_runs
from train.pages.charts import LETTERS
from train.pages.frames import StoredFrames, open_frames, shown, unread_note, write_jpeg, write_mp4
from train.pages.run import Run
from train.pictures.confusion import block_order
from train.weights import sealed_json

T = TypeVar("T")

_NAMED_CLASSES = 20  # at most, of a confusion matrix with names and numbers
_PAIRS = 20  # most confused ones that are listed
_ERRORS = 8  # clips of each kind
_CLIP_S = 5.0  # at most, of a clip
_MAX_FRAMES = 150
_CLIP_HEIGHT = 192  # pixels of the page


class _CorruptedError(Exception):
    """Why a file of an evaluation cannot be used, as a sentence."""


@dataclass(frozen=True)
class _Error:
    """A video that is classified wrong: its names, the probability of the wrong class, and the loss."""

    video_id: str
    label: str
    predicted: str
    confidence: float
    loss: float


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


def evaluation_page(runs: Sequence[Run], configs: Sequence[Config | None], folder: Path) -> Page:
    """Describe the evaluations of runs: all in a table, and the newest in detail.

    Args:
        runs: whose folders `eval` are read.
        configs: of each run, by which clips are found; None: unknown.
        folder: of the report; pictures go into its `files`.

    Raises:
        OSError: a picture cannot be written.
    """
    found, broken = _read(runs)
    page = Page(", ".join(str(run.path) for run in runs) or "no run")
    if not found:
        none = Note("There is no evaluation in the folder eval of a run yet. Run `make eval`.")
        page.sections.append(Section("Protocols", [none, *broken]))
        return page
    newest = max(found, key=lambda each: each.written)
    page.sections += [
        Section("Protocols", [_protocols(found, len(runs)), *broken]),
        Section("Newest evaluation", _newest(newest)),
        Section("Classes", _or_note(_classes, newest)),
        Section("Confusion", _or_note(_confusion, newest, folder)),
        *_errors(newest, configs[newest.run], folder),
    ]
    return page


def _read(runs: Sequence[Run]) -> tuple[list[Evaluation], list[Note]]:
    """The evaluations of runs that can be read, and a sentence about each other one."""
    found, broken = [], []
    for number, run in enumerate(runs):
        for path in sorted((run.path / "eval").glob("*/summary.json")):
            try:
                summary = sealed_json.parse(path.read_bytes())
                _cells(summary)
                found.append(Evaluation(number, path.parent, summary, path.stat().st_mtime))
            except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError) as error:
                broken.append(Note(f"{path}: corrupted: {error}. Run `make eval` again."))
    return found, broken


def _or_note(describe: Callable[..., list[Block]], *arguments: Any) -> list[Block]:
    """Blocks, or a sentence about the file that is missing or corrupted."""
    try:
        return describe(*arguments)
    except FileNotFoundError as error:
        return [Note(f"{error.filename} is missing: the evaluated videos have no labels, or the file was removed.")]
    except _CorruptedError as error:
        return [Note(str(error))]


def _protocols(found: Sequence[Evaluation], num_runs: int) -> Table:
    rows = [
        [LETTERS[each.run], each.folder.name, *_cells(each.summary)]
        for each in sorted(found, key=lambda each: (each.run, each.folder.name))
    ]
    head = [
        "", "evaluation", "protocol", "top-1", "95 %", "top-5", "95 %", "mean class", "loss", "clips", "videos",
        "published", "difference",
    ]  # fmt: skip
    return table_of_runs(head, rows, 3, num_runs)


def _cells(summary: dict[str, Any]) -> list[str]:
    """The numbers of a protocol as texts.

    Raises:
        LookupError, TypeError, ValueError: some are missing or are no numbers.
    """
    clips, listed = numbers.count(int(summary["num_clips"])), numbers.count(int(summary["num_videos"]))
    if "top1" not in summary:
        return [str(summary["protocol"]), *[numbers.MISSING] * 6, clips, listed, numbers.MISSING, numbers.MISSING]
    published, difference = (summary.get(key) or {} for key in ("published", "difference"))
    cells = [str(summary["protocol"])]
    for key in ("top1", "top5"):
        spread = (summary.get("spread") or {}).get(f"{summary['level']}_{key}")
        low, high = summary[f"{key}_interval"]
        cells += [
            numbers.percent(summary[key], 2) + (f" ± {100 * spread:.2f}" if spread is not None else ""),
            f"{100 * low:.1f}–{100 * high:.1f}",
        ]
    cells += [
        numbers.percent(summary["mean_class"], 2), numbers.decimal(summary["loss"], 4), clips,
        f"{listed} of {numbers.count(int(summary['num_listed_videos']))}",
        f"{published['top1']:.2f} / {published['top5']:.2f}" if published else numbers.MISSING,
        f"{difference['top1']:+.2f} / {difference['top5']:+.2f}" if difference else numbers.MISSING,
    ]  # fmt: skip
    return cells


def _newest(evaluation: Evaluation) -> list[Block]:
    summary = evaluation.summary
    cells = _cells(summary)
    blocks: list[Block] = [
        Numbers([
            (cells[1], f"top-1 of {summary.get('level', 'video')}s"), (cells[3], "top-5"),
            (cells[5], "mean of the classes"), (cells[6], "loss"),
        ]),
        Note(
            f"All below is of {evaluation.folder.name}: the checkpoint {summary.get('checkpoint')} on "
            f"{summary.get('split')} by the protocol {summary['protocol']}."
        ),
    ]  # fmt: skip
    for key, text in (
        ("num_inexact_videos", "videos lack a stored frame that the protocol names; they show the nearest one."),
        ("num_short_videos", "videos are shorter than a clip."),
    ):
        if summary.get(key):
            blocks.append(Note(f"{summary[key]} {text}"))
    return blocks


def _classes(evaluation: Evaluation) -> list[Block]:
    """A bar for each class, the worst first."""
    counts = _rows(
        evaluation.folder / "classes.csv", ("label", "videos", "correct"),
        lambda label, videos, correct: (label, int(videos), int(correct)),
    )  # fmt: skip
    rows = []
    for label, videos, correct in counts:
        if videos:
            share = min(max(correct / videos, 0.0), 1.0)
            rows.append((label, share, f"{numbers.percent(share, 0)} of {numbers.count(videos)}"))
    rows.sort(key=lambda row: (row[1], row[0]))
    return [Note("Accuracy of each class that has videos, the worst first."), Bars(("class", "accuracy"), rows)]


def _confusion(evaluation: Evaluation, folder: Path) -> list[Block]:
    """The matrix, ordered so that classes which are taken for each other stand together, and the worst pairs."""
    names, counts = _matrix(evaluation.folder / "confusion.csv")
    totals = counts.sum(axis=1)
    wrong = counts * ~np.eye(len(names), dtype=bool)
    blocks: list[Block] = []
    order = block_order(counts)
    shares = (counts / np.maximum(totals[:, None], 1))[np.ix_(order, order)]
    if len(names) <= _NAMED_CLASSES:
        cells = [
            [(str(counts[row, column]) if counts[row, column] else "", float(share))
             for column, share in zip(order, line, strict=True)] for row, line in zip(order, shares, strict=True)
        ]  # fmt: skip
        blocks.append(Heat([names[number] for number in order], cells))
    else:
        caption = (
            f"{len(names):,} classes: each row is a label, each column a predicted class. Classes that are taken for "
            "each other stand together."
        )
        picture = charts.matrix(folder, "confusion", shares, alt="Confusion matrix", caption=caption)
        blocks.append(Pictures([picture]))
    best = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(names)) for place in best]
    rows = [
        [names[label], names[taken], numbers.count(int(wrong[label, taken])),
         numbers.percent(wrong[label, taken] / totals[label])]
        for label, taken in pairs if wrong[label, taken]
    ]  # fmt: skip
    if not rows:
        return [*blocks, Note("No video is taken for another class.")]
    head = ["label", "predicted", "videos", "of the label's"]
    return [*blocks, Note("The most confused pairs:"), Table(head, rows, names=2)]


def _matrix(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The names of K classes, and the videos by label and prediction, (K, K)."""
    with _reading(path) as lines:
        names = next(lines)[1:]
        counts = np.array([[int(cell) for cell in line[1:]] for line in lines], np.int64)
        if counts.shape != (len(names), len(names)) or (counts < 0).any():
            raise ValueError(f"{len(names)} classes, but numbers of the shape {counts.shape}")
    return names, counts


def _errors(evaluation: Evaluation, config: Config | None, folder: Path) -> list[Section]:
    """Sections with the errors of highest loss, and of highest confidence."""
    titles = ("Worst errors", "Most confident errors")
    try:
        wrong = _wrong(evaluation.folder / "videos.csv")
    except FileNotFoundError as error:
        return [Section("Errors", [Note(f"{error.filename} is missing. Run `make eval` again.")])]
    except _CorruptedError as error:
        return [Section("Errors", [Note(str(error))])]
    if not wrong:
        return [Section("Errors", [Note("No labelled video is classified wrong.")])]
    chosen = (
        sorted(wrong, key=lambda each: -each.loss)[:_ERRORS],
        sorted(wrong, key=lambda each: -each.confidence)[:_ERRORS],
    )
    about = ("by the loss", "by the probability of the wrong class")
    stored = _stored(evaluation, config)
    clips: dict[str, Picture | None] = {}
    unread: list[str] = []
    sections = []
    for title, errors, by in zip(titles, chosen, about, strict=True):
        rows = [
            [each.video_id, each.label, each.predicted, numbers.percent(each.confidence), numbers.decimal(each.loss)]
            for each in errors
        ]
        blocks: list[Block] = [Note(f"{len(errors)} of {len(wrong):,} wrong videos, {by}.")]
        if isinstance(stored, Note):
            blocks.append(stored)
        else:
            for each in errors:
                if each.video_id not in clips:
                    clips[each.video_id] = _clip(stored, each, folder, len(clips), unread)
            pictures = [clip for each in errors if (clip := clips[each.video_id]) is not None]
            blocks += [Pictures(pictures)] if pictures else []
        blocks.append(Table(["video", "label", "predicted", "probability", "loss"], rows, names=3))
        sections.append(Section(title, blocks))
    return [*sections, Section("Missing clips", unread_note(unread))] if unread else sections


def _wrong(path: Path) -> list[_Error]:
    """The labelled videos whose prediction is wrong."""
    columns = ("label_id", "predicted_id_1", "views", "loss", "probability_1", "video_id", "label", "predicted_1")

    def error_of(label: str, best: str, views: str, loss: str, probability: str, *names: str) -> _Error | None:
        if int(label) < 0 or int(views) <= 0 or int(label) == int(best):
            return None
        video_id, label_name, predicted = names
        # The loss is empty where it was not finite.
        return _Error(video_id, label_name, predicted, float(probability), float(loss) if loss else math.inf)

    return [error for error in _rows(path, columns, error_of) if error is not None]


def _stored(evaluation: Evaluation, config: Config | None) -> StoredFrames | Note:
    """The stored frames of the evaluated split."""
    if config is None:
        return Note("No clips: the run's config.yaml is missing or cannot be read.")
    try:
        split = evaluation.summary["settings"]["dataset"]["split"]
    except (LookupError, TypeError):
        split = None
    if split not in SPLITS:
        return Note("No clips: summary.json names no split. Run `make eval` again.")
    return open_frames(config.preprocess, split)


def _clip(stored: StoredFrames, error: _Error, folder: Path, number: int, unread: list[str]) -> Picture | None:
    """The seconds in the middle of a stored video as MP4, with a frame of it as picture; None if it cannot be read."""
    videos = stored.videos
    video = stored.number_of(error.video_id)
    if video is None:
        unread.append(f"{error.video_id}: the ledger does not list it as stored. Run `make eval` again.")
        return None
    have, rate = int(videos.num_frames[video]), float(videos.timeline.stored_fps[video]) or 15.0
    length = max(1, min(have, round(_CLIP_S * rate), _MAX_FRAMES))
    first = (have - length) // 2
    frames = stored.take(video, range(first, first + length), unread=unread)
    if frames is None:
        return None
    frames = shown(frames)
    name = f"files/error-{number:02d}"
    write_mp4(folder / f"{name}.mp4", frames, rate)
    write_jpeg(folder / f"{name}.jpg", frames[length // 2])
    caption = f"{numbers.percent(error.confidence)}, loss {numbers.decimal(error.loss)}"
    alt = f"Clip of a video of the class {error.label} that is taken for {error.predicted}"
    size = (round(_CLIP_HEIGHT * frames.shape[2] / frames.shape[1]), _CLIP_HEIGHT)
    return Picture(f"{name}.jpg", size, alt, caption, (error.label, error.predicted), video=f"{name}.mp4")


def _rows(path: Path, columns: Sequence[str], made_of: Callable[..., T]) -> list[T]:
    """What is made of the texts in these columns of a CSV, for each row."""
    with _reading(path) as lines:
        head = next(lines)
        places = [head.index(name) for name in columns]
        return [made_of(*(line[place] for place in places)) for line in lines]


@contextmanager
def _reading(path: Path) -> Iterator[Iterator[list[str]]]:
    """The lines of a CSV; every error of reading them is one sentence.

    Raises:
        FileNotFoundError: it is missing.
        _CorruptedError: it is not what `make eval` writes.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            yield csv.reader(file)
    except (ArithmeticError, ValueError, LookupError, StopIteration, csv.Error) as error:
        raise _CorruptedError(f"{path}: corrupted: {error or 'it is empty'}. Run `make eval` again.") from None
