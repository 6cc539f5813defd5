"""Draws what a network sees over the time of a long video: the scores of the best classes, and its segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, MultipleLocator
from numpy.typing import NDArray

from train.pictures.charts import DPI, save_png
from train.pictures.labels import report_missing, safe_for_matplotlib, wrapped
from train.pictures.panel import clock

_LEAST_CLASSES, MAX_CLASSES = 3, 8  # curves; the other classes of segments are grey
WIDTH_INCHES, CURVES_INCHES = 12.0, 4.2
_OTHER = "#9aa0a6"
_LINE_INCHES = 0.2  # of the legend
_LEGEND = 18  # width of a line of the legend, in sizes of its letters
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_SMALL, _LARGE = 10, 13  # points
# Okabe and Ito's colours, which colour-blind people tell apart too, and which are read on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b4fa3", "#4d4d4d")


def write_timeline(
    path: Path,
    times_s: NDArray[np.float64],
    scores: NDArray[np.float32],
    names: list[str],
    segments: list[tuple[float, float, str, float]],
) -> None:
    """Write the picture: curves of the best classes over a band of the segments, atomically.

    Args:
        path: the PNG; its folder exists.
        times_s: (N,) the middle of each window, in seconds since the first frame, rising; at least one.
        scores: (N, K) the smoothed probability of each class.
        names: (K,) of the classes.
        segments: start and end in seconds, class and score of each part of the video, in order.

    Raises:
        OSError: the file cannot be written.
    """
    save_png(draw_timeline(times_s, scores, names, segments), path)


def draw_timeline(
    times_s: NDArray[np.float64],
    scores: NDArray[np.float32],
    names: list[str],
    segments: list[tuple[float, float, str, float]],
) -> Figure:
    """The picture; arguments as of `write_timeline`.  Characters that no font has are reported in a warning."""
    shown = _shown(scores, names, segments)
    report_missing(names[number] for number in shown)
    labels, families = safe_for_matplotlib([names[number] for number in shown])
    colours = {names[number]: _COLOURS[rank] for rank, number in enumerate(shown)}
    labels = [wrapped(label, _LEGEND) for label in labels]
    height = max(CURVES_INCHES, _LINE_INCHES * sum(label.count("\n") + 2 for label in labels))
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    curves, band = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    handles: list[Artist] = []
    for number, label in zip(shown, labels, strict=True):
        handles += curves.plot(
            times_s, scores[:, number], color=colours[names[number]], linewidth=2, label=label,
            marker="o" if len(times_s) == 1 else None,
        )  # fmt: skip
    curves.set_ylim(0, 1.02)
    curves.set_ylabel("probability", fontsize=_LARGE)
    curves.grid(alpha=0.3)
    for start_s, end_s, label, _ in segments:
        band.axvspan(start_s, end_s, color=colours.get(label, _OTHER), linewidth=0)
        band.axvline(start_s, color="white", linewidth=1)
    band.set_yticks([])
    band.set_ylabel("segments", fontsize=_SMALL, rotation=0, ha="right", va="center")
    band.set_xlabel("time in the video", fontsize=_LARGE)
    first = min([float(times_s[0]), *(segment[0] for segment in segments)])
    last = max([float(times_s[-1]), *(segment[1] for segment in segments)])
    length = last - first if last > first else 1.0
    band.set_xlim(first, first + length)
    band.xaxis.set_major_locator(MultipleLocator(next((step for step in _STEPS_S if length / step <= 12), length)))
    band.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: clock(max(value, 0.0))))
    for axes in (curves, band):
        axes.tick_params(labelsize=_SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    if any(label not in colours for _, _, label, _ in segments):
        handles.append(curves.fill_between([], [], color=_OTHER))
        labels.append("other classes")
    # Given, because matplotlib finds no name that begins with an underscore.
    legend = figure.legend(
        handles, labels, loc="outside right upper", prop=FontProperties(family=families, size=_SMALL)
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _shown(scores: NDArray[np.float32], names: list[str], segments: list[tuple[float, float, str, float]]) -> list[int]:
    """The classes to draw, in the order of time: those of the longest segments, then those with the highest scores."""
    numbers = {name: number for number, name in reversed(list(enumerate(names)))}
    seconds, begins = np.zeros(len(names)), np.full(len(names), np.inf)
    for start_s, end_s, label, _ in segments:
        if label in numbers:
            seconds[numbers[label]] += end_s - start_s
            begins[numbers[label]] = min(begins[numbers[label]], start_s)
    order = np.lexsort((-np.nan_to_num(scores).max(axis=0), -seconds))
    most = min(max(int((seconds > 0).sum()), _LEAST_CLASSES), MAX_CLASSES)
    return sorted(order[:most].tolist(), key=lambda number: begins[number])
