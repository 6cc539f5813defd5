"""Draws a confusion matrix that can be read with 3 classes and with 400: sorted into blocks, with the worst pairs.

The picture is as large as whole names need.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.pictures.charts import DPI, save_png
from train.pictures.labels import report_missing, safe_for_matplotlib, width_of, wrapped

MAX_NAMES = 60  # classes whose names are written at the axes
MAX_NUMBERS = 20  # classes whose cells have numbers
MAX_PAIRS = 20  # most confused pairs that are listed
_SIDE = 6.0  # inches of the matrix, at least
_WIDTHS = (12, 18, 26, 38)  # of a line of a name at the axes, in sizes of its letters: the first that takes no room
_IN_PAIRS = 26  # of a line of a name in the list, likewise
_LINE = 1.4  # height of a line, in sizes of its letters
_EDGE, _GAP = 0.2, 0.12  # inches around the picture, and between its parts
_BAR = (0.2, 0.75)  # inches of the colour bar, and of it with its numbers and name
_TITLE, _TEXT = 13, 10  # points
_GREY = "#5b6673"


def block_order(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order (K,) of classes in which those that are taken for each other stand together.

    Each class is followed by the one that shares most confusions with the block so far; a class without any begins
    a new block.
    """
    shared = (matrix + matrix.T).astype(np.float64)
    np.fill_diagonal(shared, 0)
    left, order = set(range(len(matrix))), []
    pull = np.zeros(len(matrix))
    while left:
        rest = sorted(left)
        chosen = max(rest, key=lambda number: (pull[number], shared[number].sum(), -number))
        order.append(chosen)
        left.remove(chosen)
        pull = pull / 2 + shared[chosen]
    return np.array(order)


def draw_confusion(path: Path, matrix: NDArray[np.int64], names: list[str], title: str) -> None:
    """Write the picture: rows are labels, columns predictions, shares of each label's videos.

    Args:
        path: the PNG.
        matrix: (K, K) videos by label and prediction.
        names: (K,) of the classes.
        title: of the picture.
    """
    save_png(confusion_figure(matrix, names, title), path)


def confusion_figure(matrix: NDArray[np.int64], names: list[str], title: str) -> Figure:
    """The picture; arguments as of `draw_confusion`.  Characters that no font has are reported in a warning."""
    report_missing([title, *names])
    (title, *names), families = safe_for_matplotlib([title, *names])
    order = block_order(matrix)
    pairs = _list_of_pairs(matrix, names)
    labels, size, side = _at_axes([names[number] for number in order])
    side = side if labels else max(side, pairs.height)
    titles = wrapped(title, 72).split("\n")
    about = f"{len(names):,} classes: rows are labels, columns are predictions, and confused classes stand together"

    margin = _EDGE + max((_inches(size, width_of(label)) for label in labels), default=0.0) + _GAP
    top = _EDGE + _inches(_TITLE, _LINE * len(titles)) + _inches(_TEXT, 2 * _LINE)
    list_left = margin + side + _GAP + _BAR[1] + 4 * _GAP
    titles_wide = max(_inches(_TITLE, width_of("\n".join(titles))), _inches(_TEXT, width_of(about)))
    width = max(list_left + pairs.width, _EDGE + titles_wide) + _EDGE
    height = top + max(side + margin, pairs.height + _EDGE)
    figure = Figure(figsize=(width, height), dpi=DPI)

    def axes_at(left: float, top: float, wide: float, high: float) -> Axes:
        """Axes with their upper left corner at a place, all in inches."""
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    axes = axes_at(margin, top, side, side)
    shares = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))[np.ix_(order, order)]
    # The square root, so that a few confused videos are seen beside the diagonal.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="auto")
    bar = axes_at(margin + side + _GAP, top + 0.2 * side, _BAR[0], 0.6 * side)
    figure.colorbar(picture, cax=bar).set_label("share of the label's videos", fontsize=_TEXT)
    axes.tick_params(length=0)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90, fontsize=size, fontfamily=families, parse_math=False)
    axes.set_yticks(places, labels, fontsize=size, fontfamily=families, parse_math=False)
    if len(names) <= MAX_NUMBERS:
        for (row, column), number in np.ndenumerate(matrix[np.ix_(order, order)]):
            if number:
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{number:,}", fontsize=_TEXT, color=ink, ha="center", va="center")

    page = axes_at(0, 0, width, height)
    page.set(xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()

    def write(left: float, top: float, text: str, points: int, colour: str = "black") -> None:
        """A text of one line, because scripts that are written from the right would turn several around."""
        baseline = top + _inches(points, 1.05)
        page.text(
            left, baseline, text, fontsize=points, color=colour, fontfamily=families, va="baseline", parse_math=False
        )

    for number, line in enumerate(titles):
        write(_EDGE, _EDGE + _inches(_TITLE, _LINE * number), line, _TITLE)
    write(_EDGE, _EDGE + _inches(_TITLE, _LINE * len(titles)), about, _TEXT, _GREY)
    y = top
    for row, cells in enumerate(pairs.rows):
        for cell, left in zip(cells, pairs.lefts, strict=True):
            for number, line in enumerate(cell):
                place = y + _inches(_TEXT, _LINE * number)
                write(list_left + left, place, line, _TEXT, _GREY if row == 0 else "black")
        y += _height_of(cells)
    return figure


def _inches(points: float, sizes: float) -> float:
    """A length in sizes of letters."""
    return sizes * points / 72


def _at_axes(names: list[str]) -> tuple[list[str], int, float]:
    """The names in lines, the size of their letters in points, and the inches of the matrix; no names of many classes.

    Names take several lines where the matrix need not be larger for them.
    """
    if len(names) > MAX_NAMES:
        return [], _TEXT, _SIDE
    size = 10 if len(names) <= 20 else 8 if len(names) <= 40 else 7
    for width in _WIDTHS:
        labels = [wrapped(name, width) for name in names]
        lines = max(label.count("\n") + 1 for label in labels)
        side = max(_SIDE, len(names) * _inches(size, _LINE * lines))
        if side == _SIDE:
            break
    return labels, size, side


class _ListOfPairs(NamedTuple):
    """The most confused pairs.

    Attributes:
        rows: the first is the head; each has three cells, and each cell lines.
        lefts: inches from the left edge of the list to each column.
        width: inches.
        height: inches.
    """

    rows: list[tuple[list[str], ...]]
    lefts: list[float]
    width: float
    height: float


def _list_of_pairs(matrix: NDArray[np.int64], names: list[str]) -> _ListOfPairs:
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    best = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [divmod(int(place), len(matrix)) for place in best]
    texts = [
        (f"{wrong[label, taken]:,}", names[label], names[taken]) for label, taken in pairs if wrong[label, taken]
    ] or [("0", "none", "")]
    rows = [
        tuple(wrapped(text, _IN_PAIRS).split("\n") for text in cells)
        for cells in [("videos", "most confused label", "taken for"), *texts]
    ]
    columns = zip(*rows, strict=True)
    ends = np.cumsum([
        _inches(_TEXT, max(width_of(line) for cell in column for line in cell)) + 2 * _GAP for column in columns
    ]).tolist()  # fmt: skip
    return _ListOfPairs(rows, [0.0, *ends[:-1]], ends[-1], sum(map(_height_of, rows)))


def _height_of(cells: tuple[list[str], ...]) -> float:
    """Inches of a row of the list, with some air."""
    return _inches(_TEXT, _LINE * max(map(len, cells)) + 0.5)
