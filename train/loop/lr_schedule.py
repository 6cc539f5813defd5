"""Computes the learning rate of every step of the whole training, for the optimizer."""

from __future__ import annotations

import math

from pipeline.common.errors import UserError
from train.experiment.sections import LearningRate


def learning_rates(settings: LearningRate, *, epochs: int, steps_per_epoch: int, clips_per_step: int) -> list[float]:
    """The learning rate of every step.

    A linear warm-up over `warmup_epochs` rises to the peak, which is `lr` scaled to the clips of a step.  Without
    `warmup_start` it rises from 0 and reaches the peak in its last step; with it, it rises from that fraction of the
    peak and reaches the peak in the step after.  Then the rate

        cosine_annealing  falls from the peak to `eta_min` at the last step (Loshchilov & Hutter 2017, no restarts)
        step              is multiplied by `lr_gamma` every `lr_epochs` epochs
        multi_step        is multiplied by `lr_gamma` at the start of each epoch in `lr_epochs`
        constant          stays the same

    where epochs are counted from the start of the training, as in torchvision.

    Args:
        settings: the `learning_rate` section.
        epochs: `train.epochs`.
        steps_per_epoch: optimizer steps in an epoch.
        clips_per_step: clips of one optimizer step, over all devices.

    Returns:
        epochs * steps_per_epoch values.

    Raises:
        UserError: the scaled peak is below `eta_min`.
    """
    total = epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total)
    peak = settings.lr * (clips_per_step / settings.lr_batch_size if settings.lr_batch_size else 1)
    if settings.lr_scheduler == "cosine_annealing" and settings.eta_min > peak:
        raise UserError(
            f"learning_rate.eta_min: got {settings.eta_min:g}, expected at most the highest rate, {peak:g}: "
            f"lr {settings.lr:g} scaled from lr_batch_size {settings.lr_batch_size} to {clips_per_step} clips a step"
        )
    start = settings.warmup_start
    if start is None:
        rates = [peak * (step + 1) / warmup for step in range(warmup)]
    else:
        rates = [peak * (start + (1 - start) * step / warmup) for step in range(warmup)]
    if settings.lr_scheduler == "cosine_annealing":
        last = max(total - warmup - 1, 1)
        return rates + [
            settings.eta_min + (peak - settings.eta_min) * (1 + math.cos(math.pi * step / last)) / 2
            for step in range(total - warmup)
        ]
    return rates + [peak * _fallen(settings, step // steps_per_epoch) for step in range(warmup, total)]


def _fallen(settings: LearningRate, epoch: int) -> float:
    """The fraction of the peak in an epoch (0-based)."""
    if settings.lr_scheduler == "constant" or settings.lr_gamma is None:
        return 1.0
    if settings.lr_scheduler == "step":
        return settings.lr_gamma ** (epoch // settings.lr_epochs[0])
    return settings.lr_gamma ** sum(epoch >= fall for fall in settings.lr_epochs)
