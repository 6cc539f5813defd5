"""Being asked to stop: SIGTERM and SIGINT are noted, and the step ends first.

MindSpore 2.10 puts C handlers in the place of Python's: for SIGTERM when a dataset gives its first batch, for SIGINT in
every run of a graph, where it answers SIGINT with SIGTERM to its own process.  And while a graph runs, Python's
handlers wait.  So every thread blocks the two signals, no handler ever runs, and one thread waits for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import TracebackType

from pipeline.common.errors import EXIT_RETRY, EXIT_SIGINT, EXIT_SIGTERM

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class TrainingStopped(Exception):  # noqa: N818  not an error: training ended early because it was asked to
    """Training stopped between two steps, with a checkpoint of where it stood.

    Attributes:
        exit_code: 75 after SIGTERM, 130 after SIGINT.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def end_with_parent() -> None:
    """From now on this process gets a SIGTERM when the one that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """In the block this thread blocks the two signals, and each that is started in it does so for ever."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequests:
    """While this context manager is open, a thread waits for SIGTERM and SIGINT.

    Where there is no step to finish, and at a SIGINT after another signal, the process ends at once.  To be opened
    before MindSpore starts its threads; those that numpy has are seen to in `train/__init__.py`.

    Attributes:
        exit_code: what to leave with; None while nobody has asked.
        training: whether there is a step to finish.
        thread: the one that waits.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.training = False
        self.thread = threading.Thread(target=self._wait, name="signals", daemon=True)
        self._blocked = blocked()
        self._closed = False
        self._late = False  # whether a Ctrl-C came while this was closed

    def __enter__(self) -> StopRequests:
        self._blocked.__enter__()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        signal.pthread_kill(self.thread.ident or 0, signal.SIGTERM)
        self.thread.join()
        self._blocked.__exit__(None, None, None)
        if self._late:
            signal.raise_signal(signal.SIGINT)

    def _wait(self) -> None:
        while True:
            number = signal.sigwait(SIGNALS)
            if self._closed:
                self._late = number == signal.SIGINT
                return
            again = self.exit_code is not None and number == signal.SIGINT
            if again or not self.training:
                log.warning("%s: leaving at once", signal.Signals(number).name)
                logging.shutdown()
                os._exit(EXIT_SIGINT if number == signal.SIGINT else EXIT_SIGTERM)
            self.exit_code = EXIT_SIGINT if number == signal.SIGINT else EXIT_RETRY
            log.warning("%s: finishing the step, then saving", signal.Signals(number).name)
