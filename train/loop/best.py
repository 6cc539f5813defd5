"""Keeps `best.json` true: after a kill just before it was written, and after a return to an earlier checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from train.loop.position import Position
from train.weights import checkpoint

log = logging.getLogger(__name__)


def point_to(folder: Path, stem: str, position: Position) -> None:
    """Write the `best.json` of a position; `best_epoch` is 0 without evaluation, and then its checkpoint is the best.

    Args:
        folder: of the checkpoints.
        stem: of the best one.
        position: has the score.
    """
    facts = {"epoch": position.best_epoch, "loss": position.best_loss} if position.best_epoch else {}
    checkpoint.point(folder, "best", stem, video_top1=position.best, **facts)


def complete(folder: Path, position: Position, steps_per_epoch: int) -> None:
    """Write the `best.json` of a position where a kill came between the best checkpoint and its `best.json`."""
    if not position.best_epoch:
        return
    step = position.best_epoch * steps_per_epoch
    stem = checkpoint.stem(position.best_epoch, step)
    if checkpoint.best_step(folder) < step and folder / f"{stem}.ckpt" in checkpoint.checkpoints_in(folder):
        point_to(folder, stem, position)


def forget_later(folder: Path, position: Position, steps_per_epoch: int) -> None:
    """Replace a `best.json` of a step after `position`, which will be trained again, by that of the position.

    If the files of its checkpoint were removed, the position forgets its best evaluation, too.
    """
    if checkpoint.best_step(folder) <= position.step:
        return
    (folder / "best.json").unlink()
    complete(folder, position, steps_per_epoch)
    if not checkpoint.best_step(folder):
        position.best, position.best_loss, position.best_epoch = -1.0, None, 0
    log.info("The best checkpoint is from after step %d, so it is no longer the best of this run.", position.step)
