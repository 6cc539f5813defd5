"""Train R(2+1)D on shards.                                                              (make train)

    python -m train.train -c train/configs/sample.yaml [--train.epochs=2] [--resume auto]

Reads the ledgers and shards that `make manifests preprocess` wrote.  Writes a run folder (train/runs/run_folder.py)
with the log, metrics and checkpoints, evaluates on the validation split, and prints one line of results.  SIGTERM,
SIGHUP and Ctrl-C finish the step, save and stop, with exit codes 75, 75 and 130; a second Ctrl-C stops at once.
`--resume auto` continues from the newest checkpoint.  The log ends with the commands that come next, ready to paste.
`make train DEVICES=N` starts N of these processes with MindSpore's msrun.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from functools import partial
from pathlib import Path

from pipeline.common import cli
from pipeline.common.errors import EXIT_OK, ShardError
from pipeline.common.settings import Document
from train.data.prefetch import LoaderError
from train.data.videos import class_names, count_classes
from train.device.launch import note_exit_code
from train.device.processes import join_world
from train.device.select import environment, start_device
from train.device.signals import StopRequests, TrainingStopped
from train.experiment.load import SECTION_CLASSES, load_config, with_num_classes
from train.loop.next_commands import next_commands
from train.loop.resume import check_first, checkpoints_to_resume, command_from_weights, known_runs
from train.loop.trainer import Trainer
from train.runs.choose import STARTED, now
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
    parser.add_argument("--resume", metavar="auto|FILE", help="continue the newest run, or from this checkpoint")
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    config = load_config(document)
    root = runs_root(config, document)
    cli.say_target(f"a run folder in {root}")
    config = with_num_classes(config, lambda: count_classes(config))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        device = start_device(config, trains=True)
        world = join_world(config)
        known = known_runs(config) if args.resume == "auto" else set()
        checkpoints = checkpoints_to_resume(config, class_names(config), args.resume, writes=world.rank == 0)
        run = None
        if world.rank == 0:
            facts = {**environment(device), "devices": world.size, "command": sys.argv, STARTED: now()}
            existing = checkpoints[0].parent.parent if checkpoints else None
            check = partial(check_first, config, known) if args.resume == "auto" else lambda: None
            run = stack.enter_context(RunFolder(root, config, facts, existing, check))
            if args.resume == "auto" and checkpoints:  # a process that has just ended here may have written more
                checkpoints = checkpoint.checkpoints_in(run.checkpoints)
        trainer = Trainer(config, world, run, stop)
        trainer.resume(checkpoints, document)
        if trainer.is_finished:
            if run is not None:
                trainer.complete_best()
                print(f"Nothing to train: {_result(trainer, {})}finished before -> {run.path}", flush=True)
                _say_how_to_train_longer(trainer, checkpoints[0], document)
            return EXIT_OK
        try:
            summary = trainer.fit()
        except TrainingStopped as stop_reason:
            log.warning("Training stopped after step %d. Resume with --resume auto.", trainer.position.step)
            return stop_reason.exit_code
        except (LoaderError, ShardError):
            if trainer.position.step:  # keep the steps trained so far
                try:
                    trainer.save()
                except OSError as error:
                    log.error("error: %s. No checkpoint was written.", error)
                log.info("Resume with --resume auto.")
            raise
        except OSError:
            if run is not None and checkpoint.checkpoints_in(run.checkpoints):
                log.info("The last checkpoint is kept. Resume with --resume auto.")
            raise
        if run is not None:
            result = f"{_result(trainer, summary)}{trainer.position.step} steps -> {run.path}"
            run.note(result)
            print(result, flush=True)
            for line in next_commands(config, document, run.path):
                log.info("%s", line)
    return EXIT_OK


def _result(trainer: Trainer, summary: dict[str, float | int]) -> str:
    """The last scores, and the best one with its epoch, for the line of results; ends with a comma if there are any."""
    parts = []
    if "video_top1" in summary:
        parts.append(f"video top-1 {summary['video_top1']:.4f} top-5 {summary['video_top5']:.4f}, ")
    best = trainer.position
    if best.best >= 0:
        parts.append(f"best {best.best:.4f}{f' at epoch {best.best_epoch}' if best.best_epoch else ''}, ")
    return "".join(parts)


def _say_how_to_train_longer(trainer: Trainer, path: Path, document: Document) -> None:
    position, how = trainer.position, "use --resume auto with a larger --train.epochs"
    if trainer.config.learning_rate.lr_scheduler == "cosine_annealing":
        epochs, devices = trainer.config.train.epochs, trainer.world.size
        how = f"start from its weights: {command_from_weights(path, document, epochs=epochs, devices=devices)}"
    log.info("This run has finished its %d epochs (train.epochs). To train longer, %s", position.epoch, how)


if __name__ == "__main__":
    with note_exit_code():
        cli.run(main, resumes=False)
