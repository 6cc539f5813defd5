"""Receives SIGTERM, SIGHUP and SIGINT for the trainer, so that it can finish the step and save before it stops.

MindSpore 2.10 replaces Python's handlers by C handlers: for SIGTERM when a dataset gives its first batch, for SIGINT in
every run of a graph, where it answers SIGINT with SIGTERM to its own process.  Python's handlers also wait while a
graph runs.  So every thread blocks these signals, no handler ever runs, and one thread waits for the signals.  The
other commands that run graphs do the same (`run`); they end at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from pipeline.common import cli
from pipeline.common.errors import EXIT_RETRY, EXIT_SIGINT
from pipeline.common.files import remove_unfinished

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
SIGNALS = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGINT})


def ignored_signals() -> frozenset[signal.Signals]:
    """Those of SIGNALS that this process ignores, as after `nohup` or `trap '' INT`."""
    return frozenset(number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN)


def exit_code_of(number: int) -> int:
    """The exit code of a process that ends at once by a signal, as in a shell."""
    return 128 + number


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command that computes with MindSpore, as `cli.run`; a signal ends it at once, in one line."""

    def with_signals() -> int:
        with StopRequests():
            return main()

    cli.run(with_signals, resumes=False)


class TrainingStopped(Exception):  # noqa: N818  not an error: a signal ended training early
    """Training stopped between two steps, after it wrote a checkpoint.

    Attributes:
        exit_code: 75 after SIGTERM and SIGHUP, 130 after SIGINT.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def end_with_parent() -> None:
    """From now on this process receives SIGTERM when its parent process ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """This thread blocks SIGNALS during the block; threads started in the block do so forever."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequests:
    """While this context manager is open, a thread waits for SIGNALS.

    The process ends at once if there is no step to finish, or on SIGINT after another signal.  Signals that were
    ignored before stay so.  Open it before MindSpore starts its threads; `train/__init__.py` does the same for numpy's.

    Attributes:
        exit_code: of the process, once a signal has come; None before.
        training: whether there is a step to finish.
        thread: the one that waits for signals.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.training = False
        self.thread = threading.Thread(target=self._wait, name="signals", daemon=True)
        self._ignored = ignored_signals()
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._blocked = signals_blocked()
        self._closed = False
        self._late = False  # whether Ctrl-C came while this was being closed

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
        for number, handler in self._handlers.items():  # MindSpore has set handlers of its own
            if handler is not None:  # another library's, which Python cannot set
                signal.signal(number, handler)
        self._blocked.__exit__(None, None, None)
        if self._late:
            signal.raise_signal(signal.SIGINT)

    def _wait(self) -> None:
        while True:
            number = signal.sigwait(SIGNALS)
            if self._closed:
                self._late = number == signal.SIGINT and number not in self._ignored
                return
            if number in self._ignored:  # the kernel also delivers ignored signals to a thread that waits for them
                continue
            again = self.exit_code is not None and number == signal.SIGINT
            if again or not self.training:
                log.warning("%s: stopping at once.", signal.Signals(number).name)
                remove_unfinished()
                logging.shutdown()
                os._exit(exit_code_of(number))
            self.exit_code = EXIT_SIGINT if number == signal.SIGINT else EXIT_RETRY
            log.warning("%s: finishing the step, then saving and stopping.", signal.Signals(number).name)
