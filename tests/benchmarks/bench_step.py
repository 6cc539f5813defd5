"""A training step and a forward pass of R(2+1)D-18 on the CPU, beside PyTorch's where torch and torchvision are there.

The forward pass also as `make eval` and `make infer` run an .onnx: the arm "ONNX".

    python tests/benchmarks/bench_step.py [--rounds 5] [--batch 4] [--torch-python PYTHON]

Every arm lives in a process of its own, compiled and warm, and takes its turn: A B C A B C ...  Medians and the ratios
to PyTorch's best, of seconds on the clock and of CPU seconds (all threads, the kernel's too): where other work runs the
clock says little.  PyTorch may live in another environment (`--torch-python other/bin/python`): torch 2.13.0, and
torchvision 0.23.0 installed with --no-deps plus pillow.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOTH = ("train", "forward")

# Each arm prints "ready", then answers every line on its stdin ("train" or "forward") with the seconds it took, on the
# clock and of CPU, after the word "took".
MINDSPORE = """
import sys, time
import model
import mindspore as ms
import numpy as np
from mindspore import nn
from model.r2plus1d import r2plus1d_18
from train.experiment.sections import Optimizer
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer

ms.set_context(mode=ms.GRAPH_MODE)
network = r2plus1d_18(num_classes=400)
loss = NetworkWithLoss(network, nn.Identity())
step = TrainStep(loss, make_optimizer(Optimizer(), network, [0.01] * 100), Optimizer())
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

ONNX = """
import sys, tempfile, time
from pathlib import Path
import model
import numpy as np
import onnx
from model.r2plus1d import r2plus1d_18
from train.weights.exported import run_onnx
from train.weights.onnx_graph import build_onnx

network = r2plus1d_18(num_classes=400).set_train(False)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "net.onnx"
    onnx.save(build_onnx(network, (None, 3, 16, 112, 112), {}), str(path))
    logits_of = run_onnx(path)
clips = np.random.default_rng(0).standard_normal((BATCH, 3, 16, 112, 112)).astype(np.float32)

def run(what):
    logits_of(clips)
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
for what in WHATS:
    run(what)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter(), time.process_time()
    run(line.strip())
    print("took", time.perf_counter() - began[0], time.process_time() - began[1], flush=True)
"""


class Arm:
    """One library in a process of its own."""

    def __init__(self, name: str, python: str, program: str, whats: tuple[str, ...]) -> None:
        self.name = name
        self.seconds: dict[str, list[tuple[float, float]]] = {what: [] for what in whats}
        self.process = subprocess.Popen(
            [python, "-c", program + LOOP.replace("WHATS", repr(list(self.seconds)))],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.alive = self._answer() == ["ready"]

    def _answer(self) -> list[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("ready", "took")):
                return line.split()
        return []

    def measure(self, what: str) -> None:
        """Run one step and note its seconds, on the clock and of CPU."""
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        _took, clock, cpu = self._answer()
        self.seconds[what].append((float(clock), float(cpu)))

    def medians(self, what: str) -> tuple[float, ...]:
        """Seconds on the clock and of CPU."""
        return tuple(map(statistics.median, zip(*self.seconds[what], strict=True)))

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
        ("MindSpore", sys.executable, MINDSPORE, BOTH),
        ("ONNX", sys.executable, ONNX, ("forward",)),
        ("PyTorch", args.torch_python, TORCH.replace("CHANNELS_LAST", "False"), BOTH),
        ("PyTorch channels_last_3d", args.torch_python, TORCH.replace("CHANNELS_LAST", "True"), BOTH),
    ]
    arms = []
    for name, python, program, whats in programs:
        arm = Arm(name, python, program.replace("BATCH", str(args.batch)), whats)
        if arm.alive:
            arms.append(arm)
        else:
            if not name.startswith("PyTorch"):
                sys.exit(f"{name}'s arm does not start; see what `make doctor` says")
            print(f"{name}: left out, torch and torchvision cannot be imported by {python}")
            arm.close()
    for _ in range(args.rounds):
        for what in BOTH:
            for arm in arms:
                if what in arm.seconds:
                    arm.measure(what)
    for what in BOTH:
        medians = {arm.name: arm.medians(what) for arm in arms if what in arm.seconds}
        torch = [seconds for name, seconds in medians.items() if name.startswith("PyTorch")]
        best = tuple(map(min, zip(*torch, strict=True)))
        print(f"{what}, {args.batch} clips of 3x16x112x112, median of {args.rounds}:")
        for name, (clock, cpu) in medians.items():
            speed = [f"{theirs / ours:.2f}" for theirs, ours in zip(best, (clock, cpu), strict=False)]
            ratios = f", {' and '.join(speed)} x the speed of PyTorch's best" if speed else ""
            print(f"  {name:26} {clock:6.2f} s {cpu:7.2f} s of CPU {args.batch / clock:6.2f} clips/s{ratios}")
    for arm in arms:
        arm.close()


if __name__ == "__main__":
    main()
