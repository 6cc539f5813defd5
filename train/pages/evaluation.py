"""The page of evaluations: protocols, classes, confusions, and the errors that are worst or most confident as clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.experiment.sections import Config
from train.pages import charts, numbers
from train.pages.blocks import Bars, Block, Heat, Note, Numbers, Page, Pictures, Section, Table, table_of_runs
from train.pages.charts import LETTERS
from train.pages.errors import errors_of
from train.pages.eval_files import CorruptedError, Evaluation, matrix_of, rows_of
from train.pages.run import Run
from train.pictures.confusion import block_order
from train.weights import sealed_json

_NAMED_CLASSES = 20  # at most, of a confusion matrix with names and numbers
_PAIRS = 20  # most confused ones that are listed


def evaluation_page(runs: Sequence[Run], configs: Sequence[Config | None], folder: Path) -> Page:
    """Describe the evaluations of runs: all in a table, and in detail the newest that has labels.

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
    newest = max(found, key=lambda each: ("top1" in each.summary, each.written))  # without labels there is no error
    later = [Note(f"{each.folder.name} is newer and has no labels.") for each in found if each.written > newest.written]
    page.sections += [
        Section("Protocols", [_protocols(found, len(runs)), *broken]),
        Section("Newest evaluation", [*_newest(newest), *later]),
        Section("Classes", _or_note(_classes, newest)),
        Section("Confusion", _or_note(_confusion, newest, folder)),
        *errors_of(newest, configs[newest.run], folder),
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
    except CorruptedError as error:
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
    labelled = "labelled_" if "top1" in summary else ""  # accuracies are divided by these
    clips, videos = (numbers.count(int(summary[f"num_{labelled}{name}"])) for name in ("clips", "videos"))
    if not labelled:
        return [str(summary["protocol"]), *[numbers.MISSING] * 6, clips, videos, numbers.MISSING, numbers.MISSING]
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
        numbers.percent(summary["mean_class"], 2),
        numbers.MISSING if summary["loss"] is None else numbers.decimal(summary["loss"], 4), clips,
        f"{videos} of {numbers.count(int(summary['num_listed_videos']))}",
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
        ("num_nan_videos", "videos have scores that are not numbers; they count as wrong."),
    ):
        if summary.get(key):
            blocks.append(Note(f"{summary[key]} {text}"))
    return blocks


def _classes(evaluation: Evaluation) -> list[Block]:
    """A bar for each class, the worst first."""
    counts = rows_of(
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
    names, counts = matrix_of(evaluation.folder / "confusion.csv")
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
