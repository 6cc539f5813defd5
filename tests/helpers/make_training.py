"""A training small enough for tests: a store of tiny clips, a network that compiles in a second, a configuration."""

# Run as a program, it trains like `python -m train.train` and sends itself a signal in a chosen step:
#
#     python tests/helpers/make_training.py SIGKILL 7 -c tiny.yaml ...

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
import yaml
from make_store import make_split, settings_for
from mindspore import Tensor, nn

from model.r2plus1d import batch_norm, conv
from pipeline.common import cli
from pipeline.common.settings import to_plain
from train import train
from train.loop import trainer
from train.loop.trainer import Trainer
from train.weights.checkpoint import checkpoints_in

NUM_TRAIN, NUM_VAL = 17, 4
NORMALIZE = {"type": "VideoNormalize", "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}


class TinyNetwork(nn.Cell):
    """One convolution, one batch norm, one linear layer; compiles fast, and the trainer sees no difference."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.SequentialCell(conv(3, 4, (3, 3, 3), (1, 2, 2)), batch_norm(4, 1e-5), nn.ReLU())
        self.fc = nn.Dense(4, 3)

    def construct(self, x: Tensor, dropout_factors: Tensor | None = None) -> Tensor:
        """(N, 3, T, H, W) -> (N, 3)."""
        x = self.features(x).mean((2, 3, 4))
        return self.fc(x if dropout_factors is None else x * dropout_factors)


def write_config(folder: Path, **train_options: object) -> Path:
    """Make the store in `folder`, and a configuration of 8 batches of 2 clips an epoch; returns its path."""
    settings = settings_for(folder)
    make_split(settings, "train", NUM_TRAIN)
    make_split(settings, "val", NUM_VAL)

    def loader(split: str, crop: str, **options: object) -> dict[str, object]:
        dataset = {"split": split, "batch_size": 2, "seq": 4, "num_parallel_workers": 2, **options}
        operations = [{"type": "VideoRescale", "shift": 0.0}, {"type": crop, "size": [16, 16]},
                      {"type": "VideoReOrder", "order": [3, 0, 1, 2]}, NORMALIZE]  # fmt: skip
        return {"dataset": dataset, "map": {"operations": operations}}

    document = {
        "device_target": "CPU",
        "model": {"num_classes": 3},
        "learning_rate": {"lr": 0.02, "warmup_epochs": 1},
        "optimizer": {"weight_decay": 1e-4},
        "train": {
            "ckpt_path": f"{folder}/runs",
            "epochs": 2,
            "eval_epochs": 2,
            "save_checkpoint_epochs": 0,
            **train_options,
        },  # fmt: skip
        "data_loader": {
            "train": loader("train", "VideoRandomCrop", seq_mode="part"),
            "eval": loader("val", "VideoCenterCrop", seq_mode="uniform", shuffle=False),
        },
        "preprocess": to_plain(settings),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def checkpoints_of(runs: Path) -> list[Path]:
    """The checkpoints of the run whose folder has the last name, newest first; empty without a checkpoint."""
    return next(
        (paths for folder in sorted(runs.glob("*/ckpt"), reverse=True) if (paths := checkpoints_in(folder))), []
    )


def signalling(number: int, step: int, send: Callable[[Trainer, int], None]) -> Callable[..., float]:
    """`Trainer._step`, but it sends a signal at the end of one step."""
    make_step = Trainer._step

    def step_and_signal(self: Trainer, *args: object) -> float:
        loss = make_step(self, *args)  # type: ignore[arg-type]
        if self.position.step == step:
            send(self, number)
        return loss

    return step_and_signal


def to_the_waiting_thread(training: Trainer, number: int) -> None:
    """For the process of the tests, whose older threads block no signals; returns when the signal was received."""
    signal.pthread_kill(training.stop.thread.ident or 0, number)
    while training.stop.exit_code is None:
        time.sleep(0.001)


def to_the_process(training: Trainer, number: int) -> None:
    """Send it from outside, after a check that all threads except the waiting one block SIGTERM and SIGINT."""
    both = 1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1
    for task in Path("/proc/self/task").iterdir():
        try:
            facts = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        waits = int(task.name) == training.stop.thread.native_id
        assert waits or int(facts["SigBlk"], 16) & both == both, f"thread {facts['Name']} takes signals"
    os.kill(os.getpid(), number)
    while training.stop.exit_code is None:
        time.sleep(0.001)


if __name__ == "__main__":
    trainer.build_network = lambda _settings: TinyNetwork()
    trainer._SHOWN_EVERY_S = math.inf  # one line an epoch, however long it takes
    Trainer._step = signalling(signal.Signals[sys.argv[1]], int(sys.argv[2]), to_the_process)
    cli.run(lambda: train.main(sys.argv[3:]))
