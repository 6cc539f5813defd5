"""A run shows its progress on a terminal and in a log, and both end with it."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading

import pytest
from terminal import Terminal
from waiting import wait_until

from pipeline.common.outcome import Outcome
from pipeline.execution import run


def lines_of_a_run(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a run of three videos logs after two, of which one is bad; the third is not finished for long."""
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(run, "_REPORT_S", 0.02)
    caplog.set_level(logging.INFO)
    with run.ProgressBar(3) as bar:
        bar.done(Outcome(video_id="a", status="ok", num_frames=5))
        bar.done(Outcome(video_id="b", status="truncated"))
        before = len(caplog.messages)
        wait_until(lambda: screen.isatty() or len(caplog.messages) >= before + 3)
    assert "progress" not in [thread.name for thread in threading.enumerate()]
    assert bar.frames == 5
    return caplog.messages[before + 1 :]


def test_log_has_a_line_of_progress_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_of_a_run(io.StringIO(), monkeypatch, caplog)
    assert len(lines) >= 2, "also while no video is finished"
    for line in lines:
        assert re.fullmatch(r"2 of 3 videos, 1 bad, [\d.]+ videos/s, about \d\d:\d\d left", line)


def test_terminal_has_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    screen = Terminal()
    assert lines_of_a_run(screen, monkeypatch, caplog) == []
    assert "2/3" in screen.getvalue()
