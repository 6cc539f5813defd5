"""A run's learning curves as a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

TRAIN, VAL, VAL5 = "tab:blue", "tab:orange", "tab:green"


def draw_learning_curves(records: list[dict[str, Any]], title: str) -> Figure:
    """Four plots over the optimizer step.

    Args:
        records: of metrics.jsonl; each has `step` and any of the scalars.
        title: of the picture.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    loss, accuracy, rate, speed = figure.subplots(2, 2, sharex=True).flat
    _noisy(loss, records, "train/loss", TRAIN)
    _points(loss, records, "val/loss", VAL)
    _noisy(accuracy, records, "train/acc1", TRAIN)
    _points(accuracy, records, "val/acc1", VAL)
    _points(accuracy, records, "val/acc5", VAL5)
    accuracy.set_ylim(0, 1.02)
    rate.plot(*series(records, "train/lr"), color=TRAIN)
    _noisy(speed, records, "train/clips_per_s", TRAIN)
    speed.set_ylim(bottom=0)
    waiting = speed.twinx()
    steps, share = series(records, "train/data_wait")
    waiting.plot(steps, 100 * share, color=VAL, linewidth=0.8)
    waiting.set_ylim(0, 100)
    waiting.set_ylabel("waiting for data, % of the time", color=VAL)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate"), (speed, "clips/s")):
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        if axes in (loss, accuracy):
            axes.legend(loc="upper right" if axes is loss else "lower right")
    for axes in (rate, speed):
        axes.set_xlabel("step")
    return figure


def series(records: list[dict[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(steps, values) of one scalar, where it is given; NaN where it was not finite."""
    pairs = [(record["step"], record[name]) for record in records if name in record]
    both = np.array(pairs, np.float64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _noisy(axes: Axes, records: list[dict[str, Any]], name: str, colour: str) -> None:
    """A curve as it is, faint, and its running mean over a fiftieth of it."""
    steps, values = series(records, name)
    window = max(len(values) // 50, 1)
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    means = np.convolve(values, np.ones(window) / window, mode="valid") if len(values) else values
    axes.plot(steps[window - 1 :], means, color=colour, label=name)


def _points(axes: Axes, records: list[dict[str, Any]], name: str, colour: str) -> None:
    axes.plot(*series(records, name), color=colour, marker="o", markersize=3, label=name)
