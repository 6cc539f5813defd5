"""Measures loss, accuracy, speed and the time left, for the trainer's log and metrics."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from train.evaluation.metrics import topk_correct


class Interval:
    """Collects the values of the steps between two lines of the log.

    Args:
        clips_per_step: over all devices.
    """

    def __init__(self, clips_per_step: int) -> None:
        self._clips_per_step = clips_per_step
        self._began = time.perf_counter()
        self._waited_s = 0.0
        self._seen = self._correct = self._steps = 0
        self._loss = float("nan")

    def add_batch(self, logits: NDArray[np.float32], labels: NDArray[np.int32], waited_s: float) -> None:
        """Add one batch: its logits (N, K), labels (N,), and the seconds of waiting for it."""
        self._seen += len(labels)
        self._correct += int(topk_correct(logits, labels, 1).sum())
        self._waited_s += waited_s

    def add_step(self, loss: float) -> None:
        """Add one optimizer step with the mean loss of its batches."""
        self._steps += 1
        self._loss = loss

    def summary(self) -> dict[str, float]:
        """The last loss, and of the interval top-1, clips/s, the fraction of time spent waiting, and seconds."""
        seconds = time.perf_counter() - self._began
        return {
            "train/loss": self._loss,
            "train/clip_top1": self._correct / self._seen,
            "train/clips_per_s": self._steps * self._clips_per_step / seconds,
            "train/data_wait": self._waited_s / seconds,
            "train/seconds": seconds,
        }


UNKNOWN = "unknown"
"""The time left after the first step, which compiled."""


class Remaining:
    """Estimates the time left from all steps of this process except the first, which compiles.

    Args:
        total_steps: of the whole training.
    """

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._first: tuple[int, float] | None = None

    def after(self, step: int) -> str:
        """The time left after `step`, as `2 d 03:04:05` or `04:05`; it includes the time of evaluations so far."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (step, now)
            return UNKNOWN
        first_step, began = self._first
        return duration((now - began) / (step - first_step) * (self._total_steps - step))


def duration(seconds: float) -> str:
    """`2 d 03:04:05`, `03:04:05` or `04:05`; tqdm.format_interval has no days (`51:04:05`), and long runs take many."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{rest:02d}" if days or hours else f"{minutes:02d}:{rest:02d}"
    return f"{days} d {clock}" if days else clock
