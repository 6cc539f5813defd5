"""How far a training has come, and its best evaluation so far: what a checkpoint saves of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass
class Position:
    """How far training has come, as a checkpoint saves it.

    Attributes:
        step: finished optimizer steps of the whole run.
        epoch: finished epochs, including their evaluation.
        best: the best video top-1 of the validation split so far; -1: none.
        best_loss: the loss of the same evaluation, which decides between equal scores; None: unknown.
        best_epoch: the epoch of the same evaluation, from 1; 0: unknown.
    """

    step: int = 0
    epoch: int = 0
    best: float = -1.0
    best_loss: float | None = None
    best_epoch: int = 0

    @classmethod
    def of(cls, state: dict[str, Any]) -> Position:
        """The position in a checkpoint; earlier versions have not saved all of the best evaluation."""
        loss, epoch = state.get("best_loss"), state.get("best_epoch")
        return cls(
            step=int(state["step"]),
            epoch=int(state["epoch"]),
            best=float(state["best"]),
            best_loss=float(loss) if isinstance(loss, int | float) else None,
            best_epoch=epoch if isinstance(epoch, int) else 0,
        )

    def improve(self, top1: float, loss: float, epoch: int) -> bool:
        """Take an evaluation as the best one if it is better; returns whether it is."""
        tie = top1 == self.best and self.best_loss is not None and loss < self.best_loss
        if not math.isfinite(loss) or not (top1 > self.best or tie):
            return False
        self.best, self.best_loss, self.best_epoch = top1, loss, epoch
        return True
