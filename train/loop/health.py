"""Stops the trainer with a one-line error when the loss stays NaN, and any command when memory runs out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pipeline.common.errors import EXIT_NOT_FINITE, UserError

log = logging.getLogger(__name__)

# Parts of the messages of MindSpore's allocators, the C++ library and numpy when there is no more memory.
_OUT_OF_MEMORY = (
    "out of memory", "memory not enough", "memory isn't enough", "allocate memory failed", "cannot allocate memory",
    "bad_alloc", "unable to allocate",
)  # fmt: skip


class NotFiniteError(UserError):
    """The loss or its gradients stayed NaN or infinite: training diverged, or no weight changes."""

    exit_code = EXIT_NOT_FINITE


class OutOfMemoryError(UserError):
    """A batch needs more memory than the device has."""


class FiniteLosses:
    """Counts steps in a row that change no weight because their loss or gradients are not finite (train/loop/step.py).

    Args:
        limit: `train.nonfinite_steps`.

    Attributes:
        in_a_row: steps in a row whose loss was NaN or infinite; 0 after a finite one.  TrainStep counts the steps whose
            gradients only were not finite.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_a_row = 0

    def check(self, loss: float, step: int, left_out: int = 0, *, scale_can_fall: bool = False) -> None:
        """Count a step, and stop training if it is the last of `limit` in a row.

        Args:
            loss: of the step.
            step: its number.
            left_out: updates skipped in a row, this step's included.
            scale_can_fall: the loss scale is dynamic and above 1, so gradients may still become finite.

        Raises:
            NotFiniteError: `limit` steps in a row were not finite.
        """
        self.in_a_row = 0 if math.isfinite(loss) else self.in_a_row + 1
        if self.in_a_row:
            log.warning("warning: step %d: loss is %s, so its update is skipped", step, loss)
        elif left_out:
            log.warning("warning: step %d: gradients are not finite, so its update is skipped", step)
        if self.in_a_row >= self._limit:
            raise NotFiniteError(
                f"Loss is {loss} at step {step}, and was not finite for {self.in_a_row} steps in a row "
                "(train.nonfinite_steps). The last checkpoint is from before these steps. "
                "Try a smaller --learning_rate.lr."
            )
        if left_out >= self._limit and not scale_can_fall:
            raise NotFiniteError(
                f"Gradients are not finite at step {step}, and no weight has changed for {left_out} steps in a row "
                "(train.nonfinite_steps). Try --optimizer.loss_scale=dynamic, a smaller --learning_rate.lr, or "
                "--train.amp_level=O0."
            )


@contextmanager
def memory_errors_in_one_line(key: str, value: object, advice: str) -> Iterator[None]:
    """Turn any error about memory that ran out into one line with what to change.

    Args:
        key: the setting that decides how much memory the block needs.
        value: its value.
        advice: what to do, in sentences.

    Raises:
        OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lines = [line for line in str(error).splitlines() if any(text in line.lower() for text in _OUT_OF_MEMORY)]
        if not lines and not isinstance(error, MemoryError):
            raise
        # The longest line is not MindSpore's heading.
        reason = max(lines, key=len).strip(" -:") if lines else "MemoryError"
        raise OutOfMemoryError(f"{key}: got {value}, which does not fit in memory ({reason}). {advice}") from None


def training_memory_errors(batch_size: int) -> AbstractContextManager[None]:
    """As `memory_errors_in_one_line`, for a training step."""
    return memory_errors_in_one_line(
        "data_loader.train.dataset.batch_size", batch_size,
        "Halve it and double data_loader.group_size. This gives the same result except for batch-norm statistics. "
        "Or try --train.amp_level=O3.",
    )  # fmt: skip


def evaluation_memory_errors(batch_size: int) -> AbstractContextManager[None]:
    """As `memory_errors_in_one_line`, for a batch of evaluation."""
    return memory_errors_in_one_line(
        "data_loader.eval.dataset.batch_size", batch_size, "Halve it. This gives the same result."
    )
