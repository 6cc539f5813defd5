"""Compares the checkpoints that will be there at once with the free space of the disk, before it trains for days."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from pipeline.common.errors import MachineError
from pipeline.common.files import existing_folder
from train.experiment.sections import Train
from train.weights.checkpoint import checkpoints_in


def check_free_space(folder: Path, options: Train, num_steps: int, nbytes: int) -> None:
    """Check that the disk has space for the checkpoints that are not there yet.

    Args:
        folder: of the checkpoints, in the run folder.
        options: when one is written, and how many are kept.
        num_steps: of the whole training.
        nbytes: size of one checkpoint.

    Raises:
        MachineError: the disk is too full.
    """
    every = (each or options.epochs for each in (options.save_checkpoint_epochs, options.eval_epochs))
    written = max(math.ceil(options.epochs / each) for each in every)
    written += num_steps // (options.save_checkpoint_steps or num_steps + 1)
    # A new one is complete before an old one is removed, and the best one stays.
    kept = min(written, options.keep_checkpoint_max + 1 + bool(options.eval_epochs))
    kept = max(kept - len(checkpoints_in(folder)), 1)
    free = shutil.disk_usage(existing_folder(folder)).free
    if kept * nbytes > free:
        raise MachineError(
            f"{folder.parent}: {kept} checkpoints of {nbytes / 1e6:,.1f} MB will be there at once, but only "
            f"{free / 1e6:,.1f} MB are free. Free some space, set train.ckpt_path to a folder on another disk, or "
            "set train.keep_checkpoint_max to a smaller number."
        )
