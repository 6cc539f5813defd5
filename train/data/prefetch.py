"""Makes numbered items in threads before the loader needs them, in order, with a time limit for each.

MindSpore's own worker threads are polled every 100 ms, and if one hangs, it waits forever with a warning.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from pipeline.common.errors import EXIT_RETRY, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
_Result = queue.SimpleQueue  # receives one (item, error), one of them None; or None if the item will not be made


class LoaderError(UserError):
    """Batches stopped coming, not because of the data: a checkpoint is written and the run can be resumed."""

    exit_code = EXIT_RETRY


class Prefetcher(Generic[T]):
    """Calls `make(number)` for 0, 1, 2, ... in threads, at most `depth` calls before the consumer needs them.

    The threads are daemons: one that hangs in a read does not keep the program from ending.

    Args:
        make: makes item `number`; called by several threads at once.
        count: number of items.
        num_threads: number of threads.
        depth: items that are ready or being made at any time, at least 1.
        timeout_s: longest wait for the next item; None: no limit.
    """

    def __init__(
        self, make: Callable[[int], T], count: int, *, num_threads: int, depth: int, timeout_s: float | None
    ) -> None:
        self._make, self._count, self._timeout_s = make, count, timeout_s
        self._orders: queue.SimpleQueue[tuple[int, _Result] | None] = queue.SimpleQueue()
        self._waiting: deque[_Result] = deque()
        self._threads = [threading.Thread(target=self._work, name="batches", daemon=True) for _ in range(num_threads)]
        self._ordered = 0
        for _ in range(min(depth, count)):
            self._order()
        self._patience_s = 5.0
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)  # a thread that still uses a library that has shut down would crash the process

    def __iter__(self) -> Iterator[T]:
        """The items in order.

        Raises:
            LoaderError: none came within `timeout_s`; the log then shows what every thread was doing.
            Exception: whatever `make` raised, in place of its item.
        """
        try:
            while self._waiting:
                try:
                    answer = self._waiting[0].get(timeout=self._timeout_s)
                except queue.Empty:
                    self._patience_s = 0.0
                    log.error("No batch for %g s. Every thread is at:\n%s", self._timeout_s, stacks())
                    raise LoaderError(
                        f"No batch for {self._timeout_s:g} s (data_loader.*.dataset.batch_timeout_s): a read hangs, or "
                        "the disk is too slow. The log shows where every thread was. Check the disk with the shards."
                    ) from None
                if answer is None:  # closed in the meantime
                    return
                self._waiting.popleft()
                item, error = answer
                if error is not None:
                    raise error
                self._order()
                yield item
                del item, answer  # otherwise its memory would be in use until the next one is ready
        finally:
            self.close()

    def close(self) -> None:
        """Let each thread finish its item and end; one that hangs is left behind."""
        self._ordered = self._count
        while not self._orders.empty():
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                break
            if order is not None:
                order[1].put(None)
        for _ in self._threads:
            self._orders.put(None)
        atexit.unregister(self.close)
        for thread in self._threads:
            thread.join(self._patience_s)

    def _order(self) -> None:
        if self._ordered < self._count:
            result: _Result = _Result()
            self._waiting.append(result)
            self._orders.put((self._ordered, result))
            self._ordered += 1

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            number, result = order
            try:
                result.put((self._make(number), None))
            except BaseException as error:  # the consumer raises it
                result.put((None, error))
            del order, result


def stacks() -> str:
    """What every thread of this process is doing: its name and number, then its calls, outermost first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"thread {names.get(ident, 'without a name')} ({ident}):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
