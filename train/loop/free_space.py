"""Compares the checkpoints that a training will keep with the free space of the disk, before it trains for days."""

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
    written = 1 + options.epochs // (options.save_checkpoint_epochs or math.inf)
    written += num_steps // (options.save_checkpoint_steps or math.inf)
    kept = int(min(written, options.keep_checkpoint_max)) + bool(options.eval_epochs)  # the best one, too
    kept = max(kept - len(checkpoints_in(folder)), 1)
    free = shutil.disk_usage(existing_folder(folder)).free
    if kept * nbytes > free:
        raise MachineError(
            f"{folder.parent}: {kept} checkpoints of {nbytes / 1e6:,.1f} MB will be kept, but only "
            f"{free / 1e6:,.1f} MB are free. Free some space, set train.ckpt_path to a folder on another disk, or "
            "set train.keep_checkpoint_max to a smaller number."
        )
