"""Draw a run's learning curves.                                                         (make report)

    python -m train.report -c train/configs/sample.yaml [--run FOLDER]

Reads metrics.jsonl of the newest run (or of FOLDER) and writes learning_curves.png beside it: loss, top-1 and top-5,
learning rate, and clips/s with the share of time spent waiting for data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from train.config import SECTION_CLASSES, load
from train.run_folder import read_metrics, runs_root

TRAIN, VAL, VAL5 = "tab:blue", "tab:orange", "tab:green"


def draw(records: list[dict[str, Any]], title: str) -> Figure:
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


def newest_metrics(root: Path) -> Path:
    """The metrics.jsonl of the newest run under `root` that has a line in it.

    Raises:
        UserError: there is none.
    """
    for path in sorted(root.glob("*/metrics.jsonl"), reverse=True):
        if path.stat().st_size:
            return path
    raise UserError(f"{root}: no run with metrics; run `make train` or give a run with --run FOLDER")


def main(argv: list[str] | None = None) -> int:
    """Draw, and print where the picture is."""
    parser = cli.parser(__doc__ or "", sections=SECTION_CLASSES)
    parser.add_argument("--run", metavar="FOLDER", help="a run folder (default: the newest of this configuration)")
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    config = load(document)
    path = Path(args.run) / "metrics.jsonl" if args.run else newest_metrics(runs_root(config, document))
    records = read_metrics(path)
    if not records:
        raise UserError(f"{path}: no metrics; expected a run folder that has been trained in")
    picture = path.with_name("learning_curves.png")
    draw(records, str(path.parent)).savefig(picture, dpi=110)
    print(f"{len(records)} records to step {int(records[-1]['step'])} -> {picture}")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
