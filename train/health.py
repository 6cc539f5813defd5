"""Signs that training cannot go on, each told in one line."""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.cli import EXIT_NOT_FINITE
from pipeline.settings import UserError

log = logging.getLogger(__name__)

# What MindSpore's allocators, the C++ library and numpy say when there is no more memory.
_OUT_OF_MEMORY = ("out of memory", "memory not enough", "memory isn't enough", "bad_alloc", "unable to allocate")


class NotFiniteError(UserError):
    """The loss stayed NaN or infinite: training has diverged."""

    exit_code = EXIT_NOT_FINITE


class OutOfMemoryError(UserError):
    """A step does not fit in the device's memory."""


class FiniteLosses:
    """Counts steps in a row whose loss is NaN or infinite; such steps change no weight (train/step.py).

    Args:
        limit: `train.nonfinite_steps`.

    Attributes:
        in_a_row: such steps up to now; 0 after a finite one.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_a_row = 0

    def check(self, loss: float, step: int) -> None:
        """Take note of the loss of a step.

        Raises:
            NotFiniteError: it is the last of `limit` steps in a row.
        """
        if math.isfinite(loss):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        log.warning("warning: step %d: loss is %s; its update is left out", step, loss)
        if self.in_a_row >= self._limit:
            raise NotFiniteError(
                f"loss is {loss} at step {step}, not finite in {self.in_a_row} steps in a row "
                "(train.nonfinite_steps); no checkpoint was written since; try a smaller --learning_rate.lr"
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
        said = max(telling, key=len).strip() if telling else "MemoryError"  # MindSpore puts a heading before it
        raise OutOfMemoryError(
            f"data_loader.train.dataset.batch_size: got {batch_size}, which does not fit in memory ({said}); halve it "
            "and double data_loader.group_size, which but for batch norms is the same, or try --train.amp_level=O3"
        ) from None


def stacks() -> str:
    """What every thread of this process is doing: its name and number, then its calls, outermost first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"thread {names.get(ident, 'without a name')} ({ident}):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
