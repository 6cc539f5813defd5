"""A training step and a forward pass of R(2+1)D-18 on the CPU, beside PyTorch's where torch and torchvision are there.

    python tests/benchmarks/bench_step.py [--rounds 5] [--batch 4] [--torch-python PYTHON]

Every arm lives in a process of its own, compiled and warm, and takes its turn: A B C A B C ...  Medians and the ratios
to PyTorch's best.  PyTorch may live in another environment (`--torch-python other/bin/python`): torch 2.13.0, and
torchvision 0.23.0 installed with --no-deps plus pillow.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Each arm prints "ready", then answers every line on its stdin ("train" or "forward") with the seconds it took.
MINDSPORE = """
import sys, time
import model
import mindspore as ms
import numpy as np
from mindspore import nn
from model.r2plus1d import r2plus1d_18
from train.config import Optimizer
from train.step import Loss, TrainStep, make_optimizer

ms.set_context(mode=ms.GRAPH_MODE)
network = r2plus1d_18(num_classes=400)
step = TrainStep(Loss(network, nn.Identity()), make_optimizer(Optimizer(), network, [0.01] * 100), Optimizer())
clips = ms.Tensor(np.random.default_rng(0).standard_normal((BATCH, 3, 16, 112, 112)).astype(np.float32))
labels = ms.Tensor(np.zeros(BATCH, np.int32))

def run(what):
    if what == "train":
        step.set_train(True)
        step(clips, labels)[0].asnumpy()
    else:
        network.set_train(False)
        network(clips).asnumpy()
"""

TORCH = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch
library = torch.library.Library("torchvision", "DEF")  # torchvision's compiled operators do not fit torch 2.13
for name in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
    library.define(name)
from torchvision.models.video import r2plus1d_18

network = r2plus1d_18()
clips = torch.randn(BATCH, 3, 16, 112, 112)
if CHANNELS_LAST:
    network, clips = network.to(memory_format=torch.channels_last_3d), clips.to(memory_format=torch.channels_last_3d)
optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-4)
labels = torch.zeros(BATCH, dtype=torch.long)

def run(what):
    if what == "train":
        network.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(clips), labels).backward()
        optimizer.step()
    else:
        network.eval()
        with torch.no_grad():
            network(clips)
"""

LOOP = """
for what in ("train", "forward"):
    run(what)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    run(line.strip())
    print(time.perf_counter() - began, flush=True)
"""


class Arm:
    """One library in a process of its own."""

    def __init__(self, name: str, python: str, program: str) -> None:
        self.name = name
        self.seconds: dict[str, list[float]] = {"train": [], "forward": []}
        self.process = subprocess.Popen(
            [python, "-c", program + LOOP],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.alive = self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready" or line.strip().replace(".", "", 1).replace("e-", "", 1).isdigit():
                return line.strip()
        return ""

    def measure(self, what: str) -> None:
        """Run one step and note its seconds."""
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        self.seconds[what].append(float(self._answer()))

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="clips of 3 x 16 x 112 x 112 (default %(default)s)")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that has torch and torchvision")
    args = parser.parse_args()
    programs = [
        ("MindSpore", sys.executable, MINDSPORE),
        ("PyTorch", args.torch_python, TORCH.replace("CHANNELS_LAST", "False")),
        ("PyTorch channels_last_3d", args.torch_python, TORCH.replace("CHANNELS_LAST", "True")),
    ]
    arms = []
    for name, python, program in programs:
        arm = Arm(name, python, program.replace("BATCH", str(args.batch)))
        if arm.alive:
            arms.append(arm)
        else:
            if name == "MindSpore":
                sys.exit("MindSpore's arm does not start; see what `python -m train.train` says")
            print(f"{name}: left out, torch and torchvision cannot be imported by {python}")
            arm.close()
    for _ in range(args.rounds):
        for what in ("train", "forward"):
            for arm in arms:
                arm.measure(what)
    for what in ("train", "forward"):
        medians = {arm.name: statistics.median(arm.seconds[what]) for arm in arms}
        best = min((seconds for name, seconds in medians.items() if name != "MindSpore"), default=None)
        print(f"{what}, {args.batch} clips of 3x16x112x112, median of {args.rounds}:")
        for name, seconds in medians.items():
            ratio = f", {seconds / best:.2f} x PyTorch's best" if best else ""
            print(f"  {name:26} {seconds:7.2f} s  {args.batch / seconds:6.2f} clips/s{ratio}")
    for arm in arms:
        arm.close()


if __name__ == "__main__":
    main()
