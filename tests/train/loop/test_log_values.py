"""The log shows the right speed, accuracy and remaining time."""

import numpy as np
import pytest

from train.loop.log_values import Interval, Remaining, duration, time


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_interval_has_all_devices_clips_own_accuracy(clock):
    interval = Interval(clips_per_step=8)  # two groups of two clips, on two devices
    for right in ([1, 1], [1, 0], [0, 0], [1, 0]):
        logits = np.array([[0, 1] if hit else [1, 0] for hit in right], np.float32)
        interval.add_batch(logits, np.array([1, 1], np.int32), waited_s=0.5)
    interval.add_step(3.0)
    interval.add_step(2.0)
    clock[0] += 4
    assert interval.summary() == {
        "train/loss": 2.0, "train/clip_top1": 0.5, "train/clips_per_s": 4.0, "train/data_wait": 0.5,
        "train/seconds": 4.0,
    }  # fmt: skip


def test_the_time_left_leaves_out_the_first_step(clock):
    remaining = Remaining(total_steps=1000)
    clock[0] += 500  # compiling
    assert remaining.after(101) == "unknown"
    clock[0] += 20
    assert remaining.after(111) == "29:38"  # 889 steps of 2 s


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (59.6, "01:00"), (3600, "01:00:00"), (2 * 86400 + 3661, "2 d 01:01:01")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
