"""Draws a run as one picture for `make report`: clips it was trained on, and its learning curves.

The picture is wide and its letters are large, so it can be read at half its size.
"""

from __future__ import annotations

import io
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from PIL import Image

from pipeline.common.files import replacing
from train.pictures.labels import report_missing, safe_for_matplotlib

TRAIN, VAL, VAL5 = "tab:blue", "tab:orange", "tab:green"
DPI = 100
HEIGHT_INCHES, CURVES_INCHES, CLIPS_INCHES = 5.2, 7.0, 5.0
FRAMES_SHOWN = 8  # at most, per clip
_GAP = 2  # pixels of white between frames
_SMALL, _LARGE = 10, 13  # points
_LEAST = 6  # points of names that are long
_LINE = 1.3  # height of a line of a name, in sizes of its letters
_CLIP_LETTERS = 14  # of a line of a name, at the usual size


class LabelledClip(NamedTuple):
    """A clip and what it shows.

    Attributes:
        label: name of its class.
        frames: (T, H, W, 3) uint8.
    """

    label: str
    frames: NDArray[np.uint8]


def draw_run(records: list[dict[str, Any]], clips: list[LabelledClip], title: str) -> Figure:
    """Clips on the left, curves over the optimizer step on the right.

    Args:
        records: the lines of metrics.jsonl; each has `step` and some of the scalars.
        clips: one row each; without clips the picture has only the curves.
        title: title of the picture; the last validation accuracy is added.
    """
    width = CURVES_INCHES + (CLIPS_INCHES if clips else 0)
    figure = Figure(figsize=(width, HEIGHT_INCHES), dpi=DPI, layout="constrained")
    steps, top1 = series(records, "val/video_top1")
    result = f":  validation top-1 {top1[-1]:.3f} after {steps[-1]:,.0f} steps" if len(steps) else ""
    figure.suptitle(title + result, fontsize=_LARGE, parse_math=False)
    if not clips:
        _draw_curves(figure, records)
        return figure
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(CLIPS_INCHES, CURVES_INCHES), wspace=0.02)
    _draw_clips(left, clips)
    _draw_curves(right, records)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure with 256 colours, which takes a third of the bytes, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # Maximum coverage keeps the colours of thin curves; the default method drops them for more shades in the clips.
    picture = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def series(records: list[dict[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(steps, values) of one scalar, for the steps that have it; NaN where it was not finite."""
    pairs = [(record["step"], record[name]) for record in records if name in record]
    both = np.array(pairs, np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def strip_of(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Up to FRAMES_SHOWN frames of a clip (T, H, W, 3), evenly spaced, side by side: (H, width, 3)."""
    chosen = frames[:: max(len(frames) // FRAMES_SHOWN, 1)][:FRAMES_SHOWN]
    gap = np.full((frames.shape[1], _GAP, 3), 255, np.uint8)
    parts = [part for frame in chosen for part in (frame, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _draw_clips(figure: SubFigure, clips: list[LabelledClip]) -> None:
    figure.suptitle("clips of the first batches", fontsize=_LARGE)
    report_missing(clip.label for clip in clips)
    labels, families = safe_for_matplotlib(clip.label for clip in clips)
    row_points = 72 * (HEIGHT_INCHES - 1) / len(clips)
    for axes, clip, label in zip(np.atleast_1d(figure.subplots(len(clips), 1)), clips, labels, strict=True):
        axes.imshow(strip_of(clip.frames), interpolation="lanczos")
        axes.set_anchor("E")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        lines, size = _name_of_clip(label, row_points)
        axes.set_ylabel(
            lines, rotation=0, ha="right", va="center", fontsize=size, fontfamily=families, parse_math=False
        )


def _name_of_clip(label: str, height: float) -> tuple[str, int]:
    """A name in lines, and the size of its letters, both in points; it is cut only if the smallest do not fit."""
    for size in range(_SMALL, _LEAST - 1, -1):
        # Words of names are whole, such as counterclockwise; only one that is no word of a language is broken.
        words = re.sub(rf"(\S{{{20 * _SMALL // size}}})(?=\S)", r"\1 ", label)
        lines = textwrap.wrap(words, _CLIP_LETTERS * _SMALL // size, break_long_words=False)
        most = max(int(height / (_LINE * size)), 1)
        if len(lines) <= most:
            return "\n".join(lines), size
    return "\n".join([*lines[: most - 1], f"{lines[most - 1]}…"]), size


def _draw_curves(figure: Figure | SubFigure, records: list[dict[str, Any]]) -> None:
    plots = figure.subplots(2, 2, sharex=True, height_ratios=(2.4, 1))
    (loss, accuracy), (rate, speed) = plots
    _noisy(loss, records, "train/loss", TRAIN)
    _points(loss, records, "val/loss", VAL)
    _noisy(accuracy, records, "train/clip_top1", TRAIN)
    _points(accuracy, records, "val/video_top5", VAL5)
    _points(accuracy, records, "val/video_top1", VAL)  # drawn last, to be seen where both are 1
    accuracy.set_ylim(0, 1.02)
    rate.plot(*series(records, "train/lr"), color=TRAIN)
    _noisy(speed, records, "train/clips_per_s", TRAIN)
    speed.set_ylim(bottom=0)
    waiting = speed.twinx()
    steps, share = series(records, "train/data_wait")
    waiting.plot(steps, 100 * share, color=VAL, linewidth=0.8)
    waiting.set_ylim(0, 100)
    waiting.set_ylabel("waiting, %", color=VAL, fontsize=_SMALL)
    waiting.tick_params(labelsize=_SMALL)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate"), (speed, "clips/s")):
        large = axes in (loss, accuracy)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=_SMALL)
        if large:
            axes.set_title(name, fontsize=_LARGE)
            axes.legend(loc="upper right" if axes is loss else "lower right", fontsize=_SMALL + 1)
        else:
            axes.set_ylabel(name, fontsize=_SMALL, color=TRAIN)
            axes.set_xlabel("step", fontsize=_SMALL)


def _noisy(axes: Axes, records: list[dict[str, Any]], name: str, colour: str) -> None:
    """A faint curve, and its running mean over a fiftieth of its points."""
    steps, values = series(records, name)
    window = max(len(values) // 50, 1)
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    means = np.convolve(values, np.ones(window) / window, mode="valid") if len(values) else values
    axes.plot(steps[window - 1 :], means, color=colour, label=name, linewidth=2)


def _points(axes: Axes, records: list[dict[str, Any]], name: str, colour: str) -> None:
    axes.plot(*series(records, name), color=colour, marker="o", markersize=5, linewidth=2, label=name)
