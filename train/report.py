"""Draw a run: clips it was trained on, and its learning curves.                          (make report)

    python -m train.report -c train/configs/sample.yaml [--run FOLDER]

Reads metrics.jsonl of the newest run (or of FOLDER) and writes learning_curves.png into the same folder.  Its curves
are loss, top-1 and top-5, learning rate, and clips/s with the share of time spent waiting for data.  Its clips are from
the run's first batches, one for each of up to eight classes, cropped and mirrored as the network saw them.  If the
run's ledgers or shards no longer exist, the picture has only the curves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.settings import Document, build
from train.data.clip_batches import ClipBatches
from train.data.videos import read_videos
from train.experiment.load import SECTION_CLASSES, load_config
from train.experiment.sections import Config
from train.pictures.charts import LabelledClip, draw_run, save_png
from train.runs.choose import CONFIG, config_of_run, has_metrics, newest_metrics, run_folder
from train.runs.metrics import read_metrics

MAX_CLIPS = 8  # more would be too small to see
MAX_BATCHES = 50  # in which clips of different classes are searched
_COMMON_KEYS = ("train.ckpt_path",)


def main(argv: list[str] | None = None) -> int:
    """Draw the picture, and print its path."""
    parser = cli.parser("train.report", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    parser.add_argument(
        "--run", metavar="FOLDER", help="a run folder, or a file in it (default: the newest run of the dataset)"
    )
    args, document = cli.parse(parser, argv, lambda args, overrides: config_of_run(args.run, overrides, has_metrics))
    cli.set_up_logging()
    config = load_config(document)
    path = _metrics_of(args.run, document) or newest_metrics(config)
    records = read_metrics(path)
    if not records:
        raise UserError(f"{path}: the file has no metrics. Choose a run folder with steps of training (--run).")
    cli.say_target(f"{path.parent}")
    try:
        clips = first_clips(build(Config, Document(path.with_name("config.yaml"))))
    except UserError as error:
        clips = []
        print(f"The picture has no clips, only curves: {error}", file=sys.stderr)
    picture = path.with_name("learning_curves.png")
    save_png(draw_run(records, clips, str(path.parent)), picture)
    print(f"{len(records)} records to step {int(records[-1]['step'])}, {len(clips)} clips -> {picture}")
    return EXIT_OK


def _metrics_of(given: str | None, document: Document) -> Path | None:
    """The metrics.jsonl of the run that is given, or whose settings a document is; None without both.

    Raises:
        UserError: what is given is not in a run folder.
    """
    if given is None:
        own = document.path.parent if document.path is not None and document.path.name == CONFIG else None
        return own / "metrics.jsonl" if own is not None and has_metrics(own) else None
    run = run_folder(Path(given))
    if run is None:
        what = "a folder without ckpt/" if Path(given).is_dir() else "a path outside a run folder"
        what = what if Path(given).exists() else "a path that does not exist"
        raise UserError(f"--run: got {given}, {what}, expected a run folder such as runs/sample/20260101-120000.")
    return run / "metrics.jsonl"


def first_clips(config: Config) -> list[LabelledClip]:
    """A clip of each of the first classes that training used, in the order of their numbers.

    Args:
        config: the run's own settings; its ledgers and shards are read.

    Raises:
        UserError: a ledger or a shard is missing, corrupted, or made with another recipe.
    """
    loader, settings = config.data_loader.train, config.preprocess
    videos = read_videos(settings, loader.dataset.split)
    source = ClipBatches(videos, loader, settings, seed=config.train.seed, drop_remainder=True)
    source.set_epoch(0)
    by_label: dict[int, LabelledClip] = {}
    for number in range(min(source.num_batches, MAX_BATCHES)):
        clips, labels, _ = source.batch(number)
        for clip, label in zip(clips, labels.tolist(), strict=True):
            if label >= 0 and label not in by_label and len(by_label) < MAX_CLIPS:
                by_label[label] = LabelledClip(
                    videos.class_names[label], np.array(clip)
                )  # the batch's memory is reused
    return [by_label[label] for label in sorted(by_label)]


if __name__ == "__main__":
    cli.run(main, resumes=False)
