"""Signs that training cannot go on, each told in one line."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.common.errors import EXIT_NOT_FINITE, UserError

log = logging.getLogger(__name__)

# What MindSpore's allocators, the C++ library and numpy say when there is no more memory.
_OUT_OF_MEMORY = ("out of memory", "memory not enough", "memory isn't enough", "bad_alloc", "unable to allocate")


class NotFiniteError(UserError):
    """The loss or its gradients stayed NaN or infinite: training has diverged, or never moves."""

    exit_code = EXIT_NOT_FINITE


class OutOfMemoryError(UserError):
    """A step does not fit in the device's memory."""


class FiniteLosses:
    """Counts steps in a row that change no weight, since their loss or their gradients are not finite (train/step.py).

    Args:
        limit: `train.nonfinite_steps`.

    Attributes:
        in_a_row: steps up to now whose loss was NaN or infinite; 0 after a finite one.  Those whose gradients alone
            were not finite are counted by TrainStep.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_a_row = 0

    def check(self, loss: float, step: int, left_out: int = 0, *, scale_can_fall: bool = False) -> None:
        """Take note of the loss of a step.

        Args:
            loss: of the step.
            step: which.
            left_out: updates left out in a row, this step's included.
            scale_can_fall: the loss scale is dynamic and above 1, so that gradients may yet become finite.

        Raises:
            NotFiniteError: it is the last of `limit` steps in a row.
        """
        self.in_a_row = 0 if math.isfinite(loss) else self.in_a_row + 1
        if self.in_a_row:
            log.warning("warning: step %d: loss is %s; its update is left out", step, loss)
        elif left_out:
            log.warning("warning: step %d: gradients are not finite; its update is left out", step)
        if self.in_a_row >= self._limit:
            raise NotFiniteError(
                f"loss is {loss} at step {step}, not finite in {self.in_a_row} steps in a row "
                "(train.nonfinite_steps); no checkpoint was written since; try a smaller --learning_rate.lr"
            )
        if left_out >= self._limit and not scale_can_fall:
            raise NotFiniteError(
                f"gradients at step {step} are not finite, and no weight has changed in {left_out} steps in a row "
                "(train.nonfinite_steps); try --optimizer.loss_scale=dynamic, a smaller --learning_rate.lr, or "
                "--train.amp_level=O0"
            )


@contextmanager
def memory_errors_in_one_line(batch_size: int) -> Iterator[None]:
    """Turn whatever says that memory ran out into one line that says what to change.

    Raises:
        OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        telling = [line for line in str(error).splitlines() if any(text in line.lower() for text in _OUT_OF_MEMORY)]
        if not telling and not isinstance(error, MemoryError):
            raise
        # MindSpore puts a heading before it.
        said = max(telling, key=len).strip(" -:") if telling else "MemoryError"
        raise OutOfMemoryError(
            f"data_loader.train.dataset.batch_size: got {batch_size}, which does not fit in memory ({said}); halve it "
            "and double data_loader.group_size, which but for batch norms is the same, or try --train.amp_level=O3"
        ) from None
