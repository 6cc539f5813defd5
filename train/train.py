"""Train R(2+1)D on shards.                                                              (make train)

    python -m train.train -c train/configs/sample.yaml [--train.epochs=2] [--resume auto]

Reads the ledgers and shards that `make manifests preprocess` wrote; writes a run folder (train/run_folder.py) with
the log, metrics and checkpoints, evaluates on the validation split, and prints one line of results.  SIGTERM and
Ctrl-C let the step end and save, and leave with 75 and 130; a second Ctrl-C leaves at once.  `--resume auto` goes on.
`make train DEVICES=N` starts N of these through MindSpore's msrun.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, ShardError
from train.data.prefetch import LoaderError
from train.data.videos import count_classes
from train.device.launch import noted
from train.device.processes import join_world
from train.device.select import environment, start_device
from train.device.signals import StopRequests, TrainingStopped
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.loop.trainer import Trainer
from train.runs.run_folder import RunFolder, runs_root
from train.weights import checkpoint

log = logging.getLogger(__name__)

_COMMON_KEYS = (
    "device_target", "model.type", "model.num_classes", "learning_rate.lr", "learning_rate.warmup_epochs",
    "train.pre_trained", "train.pretrained_model", "train.head", "train.ckpt_path", "train.epochs", "train.eval_epochs",
    "train.amp_level", "train.seed", "data_loader.train.dataset.batch_size", "data_loader.train.dataset.seq",
    "data_loader.train.dataset.num_parallel_workers", "preprocess.dataset", "preprocess.store",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Train, and print one line of results."""
    parser = cli.parser("train.train", __doc__ or "", sections=SECTION_CLASSES, common=_COMMON_KEYS)
    parser.add_argument("--resume", metavar="auto|FILE", help="go on with the newest run, or with this checkpoint")
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    config = load_config(document)
    root = runs_root(config, document)
    cli.say_target(f"a run folder in {root}")
    config = with_num_classes(config, lambda: count_classes(config))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        device = start_device(config)
        world = join_world(config)
        checkpoints = checkpoints_to_resume(root, args.resume)
        run = None
        if world.rank == 0:
            facts = {**environment(device), "devices": world.size, "command": sys.argv}
            run = stack.enter_context(
                RunFolder(root, config, facts, checkpoints[0].parent.parent if checkpoints else None)
            )
            log.info("run folder: %s", run.path)
        trainer = Trainer(config, world, run, stop)
        trainer.resume(checkpoints)
        try:
            summary = trainer.fit()
        except TrainingStopped as stopped:
            log.warning("stopped after step %d; go on with --resume auto", trainer.progress.step)
            return stopped.exit_code
        except (LoaderError, ShardError):
            if trainer.progress.step:  # what was trained so far is kept
                trainer.save()
            raise
        if run is not None:
            top1 = (
                f"video top-1 {summary['video_top1']:.4f} top-5 {summary['video_top5']:.4f}, "
                if "video_top1" in summary
                else ""
            )
            print(f"{top1}{trainer.progress.step} steps -> {run.path}")
    return EXIT_OK


def checkpoints_to_resume(root: Path, asked: str | None) -> list[Path]:
    """The checkpoints that may be gone on with, best first; none starts anew.

    Args:
        root: the experiment's runs.
        asked: `auto`, the path of one checkpoint, or None.

    Raises:
        CheckpointError: the file is none that training can go on with.
    """
    if asked is None:
        return []
    if asked != "auto":
        checkpoint.check_resumable(Path(asked))
        return [Path(asked)]
    found = checkpoint.resumable(root)
    if not found:
        log.warning("nothing to resume in %s: starting at step 0", root)
    return found


if __name__ == "__main__":
    with noted():
        cli.run(main)
