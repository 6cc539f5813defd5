"""SIGINT and SIGTERM end a training after its step, and other commands at once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from pipeline.common.errors import EXIT_OK, EXIT_RETRY, EXIT_SIGINT, EXIT_SIGTERM

# The main thread is in C for some seconds, as while a graph runs; Python's own handlers would have to wait.
PROGRAM = """
import ctypes, sys
from train.device.signals import StopRequests

with StopRequests() as stop:
    stop.training = sys.argv[1] == "training"
    print("in C", flush=True)
    ctypes.CDLL(None).sleep(int(sys.argv[2]))
    print("step finished", flush=True)
sys.exit(stop.exit_code or 0)
"""


@pytest.mark.parametrize(
    ("doing", "seconds", "signals", "exit_code"),
    [
        ("training", 0, [], EXIT_OK),
        ("training", 1, [signal.SIGTERM], EXIT_RETRY),
        ("training", 1, [signal.SIGINT], EXIT_SIGINT),
        ("training", 60, [signal.SIGINT, signal.SIGINT], EXIT_SIGINT),
        ("training", 60, [signal.SIGTERM, signal.SIGINT], EXIT_SIGINT),
        ("loading", 60, [signal.SIGTERM], EXIT_SIGTERM),
        ("loading", 60, [signal.SIGINT], EXIT_SIGINT),
    ],
)
def test_signal_ends_after_the_step_or_at_once(doing, seconds, signals, exit_code):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, doing, str(seconds)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "in C\n"
    said = []
    for number in signals:
        process.send_signal(number)
        said.append(process.stderr.readline().strip())
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == exit_code
    at_once = seconds == 60
    assert rest == ("" if at_once else "step finished\n")
    if signals:
        assert said[-1] == f"{signals[-1].name}: " + (
            "stopping at once." if at_once else "finishing the step, then saving and stopping."
        )


def test_ctrl_c_during_imports_ends_training_silently():
    process = subprocess.Popen(
        [sys.executable, "-m", "train.train", "-c", "no.yaml"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a script's background job ignores Ctrl-C
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "mindspore" not in maps.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGINT  # which a shell shows as 130
