"""Draws a confusion matrix that can be read with 3 classes and with 400: sorted into blocks, with the worst pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from train.pictures.charts import save_png
from train.pictures.labels import report_missing, safe_for_matplotlib, shortened

MAX_NAMES = 40  # classes whose names are written at the axes
MAX_PAIRS = 20  # most confused pairs that are listed
_AT_AXES, _IN_PAIRS = 12, 15  # how wide a name may be, in sizes of its letters
_COLUMNS = (0.0, 0.14, 0.57)  # where their numbers, labels and predicted classes begin, as shares of the width


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
    report_missing(names)
    names, families = safe_for_matplotlib(names)
    order = block_order(matrix)
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = (matrix / totals)[np.ix_(order, order)]
    figure = Figure(figsize=(14, 8), dpi=100, layout="constrained")
    axes, texts = figure.subplots(1, 2, width_ratios=(8, 6))
    figure.suptitle(shortened(title, 70), fontsize=13, parse_math=False)
    # The square root, so that a few confused videos are seen beside the diagonal.
    picture = axes.imshow(shares, cmap="magma_r", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="auto")
    figure.colorbar(picture, ax=axes, shrink=0.6, label="share of the label's videos")
    about = f"{len(names)} classes: row label, column prediction\nconfused ones stand together"
    axes.set_title(about, fontsize=10)
    if len(names) <= MAX_NAMES:
        places, short = range(len(names)), [shortened(names[number], _AT_AXES) for number in order]
        size = 10 if len(names) <= 20 else 7
        axes.set_xticks(places, short, rotation=90, fontsize=size, fontfamily=families, parse_math=False)
        axes.set_yticks(places, short, fontsize=size, fontfamily=families, parse_math=False)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    texts.axis("off")
    texts.set_title("most confused", fontsize=11, loc="left")
    # Each cell is a text of its own, because scripts that are written from the right would turn a whole line around.
    for row, cells in enumerate([("videos", "label", "taken for"), *_pairs(matrix, names)]):
        for column, cell in zip(_COLUMNS, cells, strict=True):
            texts.text(
                column, 0.98 - row * 0.046, cell, fontsize=9, fontfamily=families, va="top", parse_math=False,
                color="grey" if row == 0 else "black", transform=texts.transAxes,
            )  # fmt: skip
    return figure


def _pairs(matrix: NDArray[np.int64], names: list[str]) -> list[tuple[str, str, str]]:
    """Videos, label and predicted class of the most confused pairs."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    best = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = [divmod(int(place), len(matrix)) for place in best]
    return [
        (f"{wrong[label, taken]:,}", shortened(names[label], _IN_PAIRS), shortened(names[taken], _IN_PAIRS))
        for label, taken in pairs if wrong[label, taken]
    ] or [("0", "none", "")]  # fmt: skip
