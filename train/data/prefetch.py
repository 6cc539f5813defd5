"""Makes numbered items ahead of their consumer, in order, in threads, with a limit on how long it waits for one.

MindSpore's own worker threads are polled every 100 ms and, when one hangs, waited for for ever with a warning.
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
_Slot = queue.SimpleQueue  # holds one (item, error), of which one is None; or None, if it will not be made any more


class LoaderError(UserError):
    """Batches stopped coming, through no fault of the data: what was trained is kept, and the run can go on."""

    exit_code = EXIT_RETRY


class Ahead(Generic[T]):
    """Calls `make(number)` for 0, 1, 2, ... in threads, at most `depth` calls ahead of the consumer.

    The threads are daemons: one that hangs in a read does not keep the program from ending.

    Args:
        make: makes item `number`; called by several threads at once.
        count: items there are.
        num_threads: threads.
        depth: items made or in the making at any time, at least 1.
        timeout_s: longest wait for the next item; None: any.
    """

    def __init__(
        self, make: Callable[[int], T], count: int, *, num_threads: int, depth: int, timeout_s: float | None
    ) -> None:
        self._make, self._count, self._timeout_s = make, count, timeout_s
        self._orders: queue.SimpleQueue[tuple[int, _Slot] | None] = queue.SimpleQueue()
        self._waiting: deque[_Slot] = deque()
        self._threads = [threading.Thread(target=self._work, name="batches", daemon=True) for _ in range(num_threads)]
        self._ordered = 0
        for _ in range(min(depth, count)):
            self._order()
        self._patience_s = 5.0
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)  # a library that has shut down under a working thread takes the process with it

    def __iter__(self) -> Iterator[T]:
        """The items in order.

        Raises:
            LoaderError: none came within `timeout_s`; where the threads are stuck is in the log.
            Exception: whatever `make` raised, when the turn of its item comes.
        """
        try:
            while self._waiting:
                try:
                    made = self._waiting[0].get(timeout=self._timeout_s)
                except queue.Empty:
                    self._patience_s = 0.0
                    log.error("no batch for %g s; what every thread is doing:\n%s", self._timeout_s, stacks())
                    raise LoaderError(
                        f"no batch for {self._timeout_s:g} s (data_loader.*.dataset.batch_timeout_s): a read hangs, or "
                        "the disk is slower than that; the log has what every thread was doing"
                    ) from None
                if made is None:  # closed meanwhile
                    return
                self._waiting.popleft()
                item, error = made
                if error is not None:
                    raise error
                self._order()
                yield item
                del item, made  # or its memory would be in use until the next one is there
        finally:
            self.close()

    def close(self) -> None:
        """Have the threads end after the item they are at; one that hangs is left behind."""
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
            slot: _Slot = _Slot()
            self._waiting.append(slot)
            self._orders.put((self._ordered, slot))
            self._ordered += 1

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            number, slot = order
            try:
                slot.put((self._make(number), None))
            except BaseException as error:  # the consumer raises it, whatever it is
                slot.put((None, error))
            del order, slot


def stacks() -> str:
    """What every thread of this process is doing: its name and number, then its calls, outermost first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"thread {names.get(ident, 'without a name')} ({ident}):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
