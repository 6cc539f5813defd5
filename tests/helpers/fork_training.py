"""Trains in forked processes of a program that has imported everything, so that one training takes a second."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import make_training
import mindspore as ms

from pipeline.common import cli
from train import train
from train.loop import trainer

FAST = ["--context.mode=1", "--train.eval_epochs=1", "--data_loader.train.dataset.batch_size=4"]
NUM_STEPS = 8  # of a training with these overrides: two epochs of four


def write_folder(folder: Path) -> Path:
    """The store and the configuration, with a checkpoint after each step; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    return make_training.write_config(folder, save_checkpoint_steps=1, keep_checkpoint_max=3)


def train_apart(config: Path, runs: Path, log: Path, *words: str) -> int:
    """Fork a training that writes its output to `log`; returns its process id.

    The calling program must not have run anything in MindSpore.
    """
    pid = os.fork()
    if pid:
        return pid
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    code = 99
    try:
        trainer.build_network = lambda _settings: make_training.TinyNetwork()  # type: ignore[assignment]
        ms.runtime.launch_blocking()
        cli.run(lambda: train.main(["-c", str(config), f"--train.ckpt_path={runs}", *FAST, *words]))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 98
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, kill_after: float | None = None) -> int:
    """Wait for a training; returns its exit code, -9 if it was killed after so many seconds before it ended."""
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def final_weights(runs: Path) -> dict[str, bytes]:
    """The last checkpoint's weights and training state, of the one run that has it."""
    (path,) = runs.glob(f"tiny/*/ckpt/epoch_002-step_{NUM_STEPS:06d}.ckpt")
    return {ending: path.with_name(path.stem + ending).read_bytes() for ending in (".ckpt", ".optimizer.ckpt")}
