"""Make a report of the dataset, of runs and of their evaluations: pages to look at or to mail.       (make report)

    python -m train.report -c train/configs/sample.yaml [--run FOLDER ...] [--output-dir DIR]

Writes a folder of static pages with pictures and clips: index.html (the dataset), run.html and evaluation.html.  They
load nothing from elsewhere and need no server.  Several --run are drawn over one another.  The folder is `report` in
the first run folder; without a run it is `report` in the current folder.  What is missing, such as removed shards, is
said on the page.  learning_curves.png in the same folder is one picture of the first run, for slides.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, UserError
from pipeline.common.settings import Document, build
from train.data.clip_batches import ClipBatches
from train.data.videos import read_videos
from train.experiment.load import SECTION_CLASSES, load_config
from train.experiment.sections import Config
from train.pages.blocks import PAGES, write_pages
from train.pages.charts import LETTERS
from train.pages.dataset import dataset_page
from train.pages.evaluation import evaluation_page
from train.pages.folder import report_folder
from train.pages.run import SLIDE, Run, read_run, run_page
from train.pictures.charts import LabelledClip, draw_run, save_png
from train.runs.choose import CONFIG, config_of_run, has_metrics, newest_metrics, run_folder

MAX_CLIPS = 8  # more would be too small to see
MAX_BATCHES = 50  # in which clips of different classes are searched
_COMMON_KEYS = ("train.ckpt_path", "preprocess.dataset", "preprocess.store")


def main(argv: list[str] | None = None) -> int:
    """Make the report, and print its path."""
    parser = cli.parser("train.report", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    parser.add_argument(
        "--run", metavar="FOLDER", action="append", default=[],
        help="a run folder, or a file in it; several are compared (default: the newest run of the dataset)",
    )  # fmt: skip
    parser.add_argument("--output-dir", metavar="DIR", help="folder of the report; an earlier report there is replaced")
    args, document = cli.parse(
        parser, argv, lambda args, overrides: config_of_run(next(iter(args.run), None), overrides, has_metrics)
    )
    cli.set_up_logging()
    config = load_config(document)
    folders, why_none = _runs(args.run, config, document)
    target = Path(args.output_dir) if args.output_dir else next(iter(folders), Path()) / "report"
    cli.say_target(f"{target}")
    with report_folder(target) as folder:
        runs = [read_run(path) for path in folders]
        configs = [_config_of(path, config, document) for path in folders]
        if runs and runs[0].records:
            _draw_first(runs[0], configs[0], folder)
        pages = [
            dataset_page(config, folder),
            run_page(runs, why_none, folder),
            evaluation_page(runs, configs, folder),
        ]
        now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
        write_pages(folder, dict(zip(PAGES, pages, strict=True)), f"Made on {now} by `make report`.")
        num_files = sum(path.is_file() for path in folder.rglob("*")) + 1
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{len(runs)} run{'s' * (len(runs) != 1)}, {num_files} files, {size / 1e6:.1f} MB -> {target / 'index.html'}")
    return EXIT_OK


def _runs(given: list[str], config: Config, document: Document) -> tuple[list[Path], str]:
    """The run folders of the report; without one, the sentence that says why.

    Raises:
        UserError: what is given is not in a run folder, or there are too many.
    """
    if len(given) > len(LETTERS):
        raise UserError(f"--run: got {len(given)} folders, expected at most {len(LETTERS)}. Choose some of them.")
    if given:
        return list(dict.fromkeys(map(_run_of, given))), ""
    if document.path is not None and document.path.name == CONFIG and run_folder(document.path.parent):
        return [document.path.parent], ""
    try:
        return [newest_metrics(config).parent], ""
    except UserError as error:
        return [], str(error)


def _run_of(given: str) -> Path:
    run = run_folder(Path(given))
    if run is None:
        what = "a folder without ckpt/" if Path(given).is_dir() else "a path outside a run folder"
        what = what if Path(given).exists() else "a path that does not exist"
        raise UserError(f"--run: got {given}, {what}, expected a run folder such as runs/sample/20260101-120000.")
    return run


def _config_of(run: Path, config: Config, document: Document) -> Config | None:
    """The settings of a run, with the places of this command's where the recipe is the same; None: unknown."""
    if document.path == run / CONFIG:
        return config
    try:
        own = build(Config, Document(run / CONFIG))
    except UserError:
        return None
    same = own.preprocess.stored() == config.preprocess.stored()
    return replace(own, preprocess=config.preprocess) if same else own


def _draw_first(run: Run, config: Config | None, folder: Path) -> None:
    """Draw one picture of a run, with clips where its shards still exist."""
    clips: list[LabelledClip] = []
    if config is not None:
        try:
            clips = first_clips(config)
        except UserError:
            pass  # the page of the dataset says why
    save_png(draw_run(run.records, clips, str(run.path)), folder / SLIDE)


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
        if len(by_label) == MAX_CLIPS:
            break
    return [by_label[label] for label in sorted(by_label)]


if __name__ == "__main__":
    cli.run(main, resumes=False)
