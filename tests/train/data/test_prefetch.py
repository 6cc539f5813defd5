"""Threads prepare items in advance, in order and within limits; errors and hangs are always reported."""

import threading
import time

import pytest
from waiting import wait_until

from train.data.buffers import Buffers
from train.data.prefetch import LoaderError, Prefetcher


def ahead(make, count=20, *, num_threads=3, depth=5, timeout_s=100.0):
    return Prefetcher(make, count, num_threads=num_threads, depth=depth, timeout_s=timeout_s)


def test_items_come_in_order_whatever_they_take():
    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert list(ahead(make)) == list(range(20))
    assert list(ahead(make, count=0)) == []


def test_no_more_is_made_ahead_than_allowed():
    made = []
    items = iter(ahead(made.append, num_threads=2, depth=4))
    next(items)
    wait_until(lambda: len(made) >= 5)  # one is taken, four are ready
    time.sleep(0.1)
    assert len(made) == 5


def test_an_error_comes_when_its_turn_does():
    def make(number: int) -> int:
        if number == 3:
            raise KeyError("three")
        return number

    items = iter(ahead(make))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(items)


def test_thread_that_hangs_is_logged_not_waited_for(caplog):
    hangs, wake = threading.Event(), threading.Event()

    def make(number: int) -> int:
        if number == 2:
            hangs.set()
            wake.wait()
        return number

    items = iter(ahead(make, num_threads=1, timeout_s=0.2))
    hangs.wait()  # the two before it are ready
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(LoaderError, match=r"No batch for 0\.2 s \(data_loader\..*batch_timeout_s\)") as caught:
        next(items)
    assert caught.value.exit_code == 75
    wake.set()
    assert "thread batches" in caplog.text and "wake.wait()" in caplog.text


def test_closing_releases_a_waiting_consumer():
    begun, wake = threading.Event(), threading.Event()

    def make(number: int) -> int:
        begun.set()
        wake.wait()
        return number

    items = ahead(make, num_threads=1, timeout_s=60)
    taken: list[int] = []
    consumer = threading.Thread(target=lambda: taken.extend(items))
    consumer.start()
    begun.wait()
    closing = threading.Thread(target=items.close)
    closing.start()
    wait_until(lambda: items._orders.qsize() <= 1)  # nothing else will be made
    wake.set()
    consumer.join(100)
    closing.join(100)
    assert not consumer.is_alive() and taken == [0]


@pytest.mark.parametrize("taken", [0, 3, 20])
def test_threads_end_with_their_consumer(taken):
    others = set(threading.enumerate())  # one that another test released may still be ending
    items = ahead(lambda number: number)
    assert [thread.name for thread in set(threading.enumerate()) - others] == ["batches"] * 3
    walk = iter(items)
    for _ in range(taken):
        next(walk)
    walk.close()
    items.close()
    assert "batches" not in {thread.name for thread in set(threading.enumerate()) - others}


def test_buffer_is_reused_only_when_unreferenced():
    buffers = Buffers((4, 6))
    first = buffers.take()
    place = first.ctypes.data
    part = first[1:, 2:][::2]  # a view of a view
    del first
    second = buffers.take()
    assert second.ctypes.data != place
    del part
    assert buffers.take().ctypes.data == place
