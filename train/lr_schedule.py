"""Learning rates as pure functions of the step: one number for each step of the whole training."""

from __future__ import annotations

import math

from train.config import LearningRate


def learning_rates(settings: LearningRate, *, epochs: int, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step.

    A linear warm-up over `warmup_epochs` reaches `lr` at its last step; then cosine annealing falls from `lr` to
    `eta_min` at the last step (Loshchilov & Hutter 2017, without restarts), or `constant` stays.

    Args:
        settings: the `learning_rate` section.
        epochs: `train.epochs`.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        epochs * steps_per_epoch values.
    """
    total = epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total)
    rates = [settings.lr * (step + 1) / warmup for step in range(warmup)]
    rest = total - warmup
    if settings.lr_scheduler == "constant":
        return rates + [settings.lr] * rest
    span = settings.lr - settings.eta_min
    for step in range(rest):
        rates.append(settings.eta_min + span * (1 + math.cos(math.pi * step / max(rest - 1, 1))) / 2)
    return rates
