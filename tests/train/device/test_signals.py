"""SIGINT, SIGTERM and SIGHUP end a training after its step and other commands at once; ignored ones stay ignored."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from make_training import write_config
from paths import ROOT

from pipeline.common.errors import EXIT_OK, EXIT_RETRY, EXIT_SIGHUP, EXIT_SIGINT, EXIT_SIGTERM
from pipeline.common.settings import Document
from train.device.signals import SIGNALS
from train.experiment.load import load_config
from train.network.build import build_network
from train.weights import checkpoint

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
        ("training", 1, [signal.SIGHUP], EXIT_RETRY),
        ("training", 1, [signal.SIGINT], EXIT_SIGINT),
        ("training", 60, [signal.SIGINT, signal.SIGINT], EXIT_SIGINT),
        ("training", 60, [signal.SIGTERM, signal.SIGINT], EXIT_SIGINT),
        ("loading", 60, [signal.SIGTERM], EXIT_SIGTERM),
        ("loading", 60, [signal.SIGHUP], EXIT_SIGHUP),
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
    lines = []
    for number in signals:
        process.send_signal(number)
        lines.append(process.stderr.readline().strip())
    rest = process.stdout.read()
    assert process.wait(timeout=30) == exit_code
    at_once = seconds == 60
    assert rest == ("" if at_once else "step finished\n")
    if signals:
        assert lines[-1] == f"{signals[-1].name}: " + (
            "stopping at once." if at_once else "finishing the step, then saving and stopping."
        )


# As evaluate, infer and export run, with a file that is half written.
COMMAND = """
import ctypes, sys
from pathlib import Path
from pipeline.common.files import replacing
from train.device import signals

def main():
    with replacing(Path(sys.argv[2])) as temporary:
        temporary.write_text("x")
        print("in C", flush=True)
        ctypes.CDLL(None).poll(0, 0, int(sys.argv[1]))
    return 0

signals.run(main)
"""


def test_command_with_mindspore_ends_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "60000", str(tmp_path / "result")], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "in C\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "SIGINT: stopping at once.\n")
    assert process.returncode == EXIT_SIGINT and list(tmp_path.iterdir()) == []


# MindSpore's handler in C answers SIGINT with SIGTERM, and is still there when a command has finished.
FINISHED = """
import ctypes, os, signal
from pipeline.common import cli
from train.device.signals import StopRequests

answer = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: os.kill(os.getpid(), signal.SIGTERM))

def main():
    with StopRequests():
        ctypes.CDLL(None).signal(signal.SIGINT, answer)
    signal.raise_signal(signal.SIGINT)
    return 0

cli.run(main, resumes=False)
"""


def test_interrupt_after_the_work_is_no_sigterm():
    process = subprocess.run([sys.executable, "-c", FINISHED], cwd=ROOT, text=True, capture_output=True)
    assert (process.returncode, process.stderr) == (EXIT_SIGINT, "Interrupted.\n")


def ignore_all() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def test_signals_that_are_ignored_stay_ignored(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "400", "result"], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=ignore_all,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "in C\n"
    for number in SIGNALS:
        process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == EXIT_OK and (tmp_path / "result").read_text() == "x"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, EXIT_SIGINT), (signal.SIGHUP, EXIT_SIGHUP)])
def test_evaluation_ends_between_two_graphs(number, exit_code, tmp_path):
    config = write_config(tmp_path)
    words = ["-c", str(config), "--model.stage_channels=[4,4,4,4]"]
    network = build_network(load_config(Document(config, {"model.stage_channels": "[4,4,4,4]"})).model)
    checkpoint.save_weights(tmp_path / "w.ckpt", network, {})
    many = [f"--eval.pretrained_model={tmp_path}/w.ckpt", "--data_loader.eval.dataset.num_clips=5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "train.evaluate", *words, *many], cwd=ROOT, text=True, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("step:[    2/"):
        assert line
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(30) == exit_code and rest.endswith(f"{number.name}: stopping at once.\n"), rest
    assert "Traceback" not in rest and not any((tmp_path / "eval").iterdir())


def test_ctrl_c_during_imports_ends_training():
    process = subprocess.Popen(
        [sys.executable, "-m", "train.train", "-c", "no.yaml"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a script's background job ignores Ctrl-C
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "mindspore" not in maps.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "SIGINT: stopping at once.\n")
    assert process.returncode == 130
