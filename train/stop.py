"""Being asked to stop: note the signal, let the step end."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType

from pipeline.cli import EXIT_RETRY, EXIT_SIGINT

log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818  not an error: training ended early because it was asked to
    """Training stopped between two steps, with a checkpoint of where it stood.

    Attributes:
        exit_code: 75 after SIGTERM, 130 after SIGINT.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class StopRequests:
    """While this context manager is open, SIGTERM and SIGINT are noted; a second SIGINT stops at once.

    MindSpore 2.10 puts C handlers in the place of ours: for SIGTERM when a dataset gives its first batch, and for
    SIGINT in every run of a graph, where it then answers SIGINT with SIGTERM to its own process (measured).  So
    `listen` must be called after each of the two, and a Ctrl-C in the middle of a graph counts as SIGTERM.

    Attributes:
        exit_code: what to leave with; None while nobody has asked.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def __enter__(self) -> StopRequests:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals back from MindSpore."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.exit_code is not None:
            raise KeyboardInterrupt
        self.exit_code = EXIT_SIGINT if number == signal.SIGINT else EXIT_RETRY
        log.warning("%s: finishing the step, then saving", signal.Signals(number).name)
