"""CPU time of a thread in seconds that are as long as the machine is slow, for limits of what may take how long."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable


def seconds_of(act: Callable[[], object]) -> float:
    """CPU time that this thread takes for `act`; what other threads and processes do does not count."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


@functools.cache
def second() -> float:
    """What a second was on the machine where the limits were chosen: a million additions in Python took 25 ms."""
    return 40 * min(seconds_of(lambda: sum(number for number in range(1_000_000))) for _ in range(3))
