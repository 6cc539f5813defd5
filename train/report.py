"""Draw a run's learning curves.                                                         (make report)

    python -m train.report -c train/configs/sample.yaml [--run FOLDER]

Reads metrics.jsonl of the newest run (or of FOLDER) and writes learning_curves.png beside it: loss, top-1 and top-5,
learning rate, and clips/s with the share of time spent waiting for data.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from train.experiment.load import SECTION_CLASSES, load_config
from train.pictures.charts import draw_learning_curves
from train.runs.run_folder import newest_metrics, read_metrics, runs_root

_COMMON_KEYS = ("train.ckpt_path",)


def main(argv: list[str] | None = None) -> int:
    """Draw, and print where the picture is."""
    parser = cli.parser("train.report", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    parser.add_argument("--run", metavar="FOLDER", help="a run folder (default: the newest of this configuration)")
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    config = load_config(document)
    path = Path(args.run) / "metrics.jsonl" if args.run else newest_metrics(runs_root(config, document))
    records = read_metrics(path)
    if not records:
        raise UserError(f"{path}: no metrics; expected a run folder that has been trained in")
    cli.say_target(f"{path.parent}")
    picture = path.with_name("learning_curves.png")
    draw_learning_curves(records, str(path.parent)).savefig(picture, dpi=110)
    print(f"{len(records)} records to step {int(records[-1]['step'])} -> {picture}")
    return EXIT_OK


if __name__ == "__main__":
    cli.run(main)
