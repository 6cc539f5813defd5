"""Draws the charts of a report, each for light and for dark pages; names stand beside charts, in HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from train.pages.blocks import Picture
from train.pictures.charts import save_png

SIZE = (380, 260)  # pixels of the page; phones have 344 beside the margins, so letters stay readable there
DENSITY = 2  # pixels of the file for one of the page, as screens and printers have
LETTERS = "ABCDEFGH"
"""The names of runs in charts."""

_POINTS = 9
_LEFT, _BOTTOM = 58, 44  # pixels of the page, for the numbers and names of the axes
_TOP, _TOP_WITH_RUNS = 10, 26  # pixels of the page; the letters of several runs stand above the axes
_FLAT = 0.2  # of an axis: what most values share at most, when a few others flatten them


@dataclass(frozen=True)
class Theme:
    """The colours of a chart.

    Attributes:
        name: part of the file's name.
        paper: of the ground, as that of the sections in style.css.
        ink: of letters and axes.
        grid: of the lines behind the curves.
        series: of the runs.
        map: of a matrix.
    """

    name: str
    paper: str
    ink: str
    grid: str
    series: tuple[str, ...]
    map: str


LIGHT = Theme(
    "light", "#ffffff", "#1d232b", "#d9dee4",
    ("#0b62b5", "#d1560b", "#1d8a4b", "#8a3fb0", "#b3202f", "#7a5a12", "#0f8c93", "#5b6673"), "Blues",
)  # fmt: skip
DARK = Theme(
    "dark", "#1c2026", "#e6e9ed", "#3a424c",
    ("#7ab8f5", "#ffa45c", "#6fd69a", "#d29bf0", "#ff8a94", "#e0c070", "#66d9de", "#b4bec9"), "magma",
)  # fmt: skip


def draw(
    folder: Path, name: str, plot: Callable[[Axes, Theme], None], *, alt: str, caption: str = "",
    size: tuple[int, int] = SIZE, margins: bool = True, top: int = _TOP,
) -> Picture:  # fmt: skip
    """Draw a chart for light and for dark pages.

    Args:
        folder: of the report.
        name: of the files, without theme and ending.
        plot: draws into empty axes with the colours of a theme.
        alt: what the chart shows.
        caption: below it.
        size: (width, height) in pixels of the page.
        margins: room for letters beside the axes.
        top: pixels of the page above the axes, if there are margins.

    Raises:
        OSError: a file cannot be written.
    """
    files = []
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(_style(theme)):
            dpi = 96 * DENSITY
            figure = Figure(figsize=(size[0] / 96, size[1] / 96), dpi=dpi)
            # Fixed margins: a layout that measures all letters takes half of the time of a report.
            plot(figure.add_axes(_margins(size, top) if margins else (0, 0, 1, 1)), theme)
            files.append(f"files/{name}-{theme.name}.png")
            save_png(figure, folder / files[-1])
    return Picture(files[0], size, alt, caption, dark=files[1])


def _margins(size: tuple[int, int], top: int) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) of the axes as fractions of the picture, with room for letters beside them."""
    left, bottom, right = _LEFT / size[0], _BOTTOM / size[1], 12 / size[0]
    return left, bottom, 1 - left - right, 1 - bottom - top / size[1]


def _style(theme: Theme) -> dict[Any, Any]:
    return {
        "figure.facecolor": theme.paper, "axes.facecolor": theme.paper, "savefig.facecolor": theme.paper,
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.edgecolor": theme.ink, "xtick.color": theme.ink,
        "ytick.color": theme.ink, "grid.color": theme.grid, "legend.facecolor": theme.paper,
        "legend.edgecolor": theme.grid, "font.size": _POINTS, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True,
    }  # fmt: skip


def is_flattened(values: NDArray[np.float64]) -> bool:
    """Whether a few values would flatten the others on a linear axis, which a logarithmic one prevents."""
    values = values[np.isfinite(values)]
    if len(values) < 3 or values.min() <= 0 or values.max() < 10 * values.min():
        return False
    low, high = np.percentile(values, (2, 98 if len(values) >= 50 else 100 * (len(values) - 2) / (len(values) - 1)))
    return bool(high - low < _FLAT * (values.max() - values.min()))


def histogram(
    folder: Path, name: str, values: NDArray[np.float64], *, unit: str, alt: str, caption: str, num_bins: int = 30
) -> Picture:
    """How many of some values (N,), all finite and at least 0, are in each range."""
    values = np.asarray(values, np.float64)
    wide = is_flattened(values)
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = 0.95 * low, 1.05 * high or 1.0
    edges = np.geomspace(low, high, num_bins + 1) if wide else np.linspace(low, high, num_bins + 1)
    edges[0], edges[-1] = low, high  # rounding must lose no value
    counts = np.histogram(values, edges)[0].astype(np.float64)

    def plot(axes: Axes, theme: Theme) -> None:
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=theme.series[0], linewidth=0)
        if wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if is_flattened(counts[counts > 0]):
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)
        else:
            axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(unit)
        axes.set_ylabel("videos" + (" (log)" if axes.get_yscale() == "log" else ""))
        axes.grid(axis="x", visible=False)

    return draw(folder, name, plot, alt=alt, caption=caption)


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Attributes:
        run: number of the run, which decides the colour.
        steps: (N,).
        values: (N,), NaN where there is none.
        label: in the legend of a single run; several have letters instead.
        points: shown as points with a line, and not as a noisy curve with its running mean.
        best: the step that is marked; None: none.
    """

    run: int
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    label: str
    points: bool = False
    best: float | None = None


def curves(
    folder: Path, name: str, lines: Sequence[Curve], *, unit: str, alt: str, caption: str = "",
    limits: tuple[float | None, float | None] = (None, None),
) -> Picture:  # fmt: skip
    """Curves over the step; logarithmic where a few values would flatten the others."""
    runs = sorted({each.run for each in lines})
    every = np.concatenate([each.values for each in lines])
    wide = limits == (None, None) and is_flattened(every)
    if limits == (None, None) and not wide and (every[np.isfinite(every)] >= 0).all():
        limits = (0, None)

    def plot(axes: Axes, theme: Theme) -> None:
        for each in lines:
            # Of a single run colours tell training and validation apart, of several the runs.
            colour = theme.series[each.run % len(theme.series) if len(runs) > 1 else int(each.points)]
            if each.points:
                axes.plot(each.steps, each.values, color=colour, marker="o", markersize=4, linewidth=1.6,
                          linestyle=(0, (4, 1.5)), label=each.label)  # fmt: skip
                _mark_best(axes, each, colour, theme)
                continue
            window = max(len(each.values) // 50, 1)
            axes.plot(each.steps, each.values, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(each.steps[window - 1 :], running_mean(each.values, window), color=colour, linewidth=1.6,
                      label=each.label)  # fmt: skip
        if wide:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(*limits)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("step")
        axes.set_ylabel(unit + (" (log)" if wide else ""))
        if len(runs) > 1:  # above the axes, because inside they would cover curves
            handles = [Line2D([], [], color=theme.series[run % len(theme.series)], linewidth=2) for run in runs]
            axes.legend(
                handles, [LETTERS[run] for run in runs], loc="lower left", bbox_to_anchor=(0, 1), ncols=len(runs),
                frameon=False, handlelength=1.2, columnspacing=0.9, handletextpad=0.4, borderaxespad=0.1,
            )  # fmt: skip
        elif len(lines) > 1 or lines[0].points:
            axes.legend(fontsize=_POINTS - 1)

    top = _TOP_WITH_RUNS if len(runs) > 1 else _TOP
    return draw(folder, name, plot, alt=alt, caption=caption, top=top)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The means over `window` neighbours, (N - window + 1,); values that are NaN are left out."""
    finite = np.isfinite(values)
    ones = np.ones(window)
    sums = np.convolve(np.where(finite, values, 0), ones, mode="valid")
    counts = np.convolve(finite, ones, mode="valid")
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _mark_best(axes: Axes, curve: Curve, colour: str, theme: Theme) -> None:
    place = np.flatnonzero(curve.steps == (np.nan if curve.best is None else curve.best))
    if len(place) and np.isfinite(curve.values[place[-1]]):
        axes.plot(curve.steps[place[-1]], curve.values[place[-1]], marker="*", markersize=15, color=colour,
                  markeredgecolor=theme.ink, markeredgewidth=0.8, linestyle="none", zorder=5)  # fmt: skip


def matrix(folder: Path, name: str, shares: NDArray[np.float64], *, alt: str, caption: str) -> Picture:
    """A square of shares 0..1, (K, K); rows are labels."""

    def plot(axes: Axes, theme: Theme) -> None:
        # The square root, so that a few confused videos are seen beside the diagonal.
        axes.imshow(shares, cmap=theme.map, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)

    return draw(folder, name, plot, alt=alt, caption=caption, size=(560, 560), margins=False)
