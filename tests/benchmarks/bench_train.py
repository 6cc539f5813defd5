"""The trainer around the step: streaming against a resident batch, checkpoints, time to the first step.

    python tests/benchmarks/bench_train.py [streaming] [checkpoint] [start]

streaming    steps of the sample's network on streamed batches and on one batch held in memory take turns, a block of
             each; the target is 0.99 of the resident clips/s
checkpoint   how long the full R(2+1)D-18 with its moments keeps training waiting; the target is 1 s
start        to the end of the first step of the full R(2+1)D-18 (small clips), from the start of the process and from
             that of the training loop, with a cold and with a warm compile cache; the target is half
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import model  # noqa: E402, F401  before mindspore

# isort: split
import mindspore as ms  # noqa: E402
from make_store import make_split, settings_for  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402

from model.r2plus1d import r2plus1d_18  # noqa: E402
from pipeline.settings import Document, to_plain  # noqa: E402
from train import checkpoint  # noqa: E402
from train.config import Optimizer, load  # noqa: E402
from train.dataset import Batch, iterate  # noqa: E402
from train.runtime import World  # noqa: E402
from train.step import Loss, TrainStep, make_optimizer  # noqa: E402
from train.trainer import Trainer  # noqa: E402

SAMPLE = ROOT / "train" / "configs" / "sample.yaml"


def store(folder: Path, height: int, width: int, num_videos: int, overrides: dict[str, str]) -> Document:
    """A made-up store of videos of 40 frames, and the sample's configuration on it."""
    settings = settings_for(folder, height=height, width=width, videos_per_shard=32)
    make_split(settings, "train", num_videos, length=40)
    paths = {f"preprocess.{key}": json.dumps(value) for key, value in to_plain(settings).items()}
    return Document(SAMPLE, {**paths, "train.eval_epochs": "0", **overrides})


def streaming(folder: Path, blocks: int = 12, steps: int = 15) -> None:
    """Blocks of streamed and of resident steps in turn."""
    trainer = Trainer(load(store(folder, 64, 86, 400, {})), World(), None)
    trainer.train_step.set_train(True)

    def endless() -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from iterate(trainer.source, epoch)
            epoch += 1

    def step(clips: Tensor, labels: Tensor) -> None:
        loss, logits = trainer.train_step(clips, labels, True)
        loss.asnumpy(), logits.asnumpy()

    batches = endless()
    clips, labels, _samples = next(batches)
    resident = (Tensor(clips.copy()), Tensor(labels.copy()))
    for _ in range(steps):
        step(*resident)
    seconds: dict[str, list[float]] = {"streamed": [], "resident": []}
    for _ in range(blocks):
        for arm in seconds:
            began = time.perf_counter()
            for _ in range(steps):
                if arm == "streamed":
                    clips, labels, _samples = next(batches)
                    step(Tensor(clips), Tensor(labels))
                else:
                    step(*resident)
            seconds[arm].append(time.perf_counter() - began)
    rates = {arm: steps * len(labels) / statistics.median(taken) for arm, taken in seconds.items()}
    ratios = sorted(r / s for r, s in zip(seconds["resident"], seconds["streamed"], strict=True))
    print(f"streaming, {blocks} blocks of {steps} steps of {len(labels)} clips of 8x56x56, sample's network:")
    print(f"  streamed {rates['streamed']:.1f} clips/s, resident {rates['resident']:.1f} clips/s")
    print(f"  streamed over resident: {statistics.median(ratios):.3f} (median; {ratios[0]:.3f} to {ratios[-1]:.3f})")


def checkpoints(folder: Path, rounds: int = 7) -> None:
    """Save the full network and its optimizer."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network, settings = r2plus1d_18(num_classes=400), Optimizer()
    step = TrainStep(Loss(network, nn.Identity()), make_optimizer(settings, network, [0.1] * 9), settings)
    seconds = []
    for number in range(rounds):
        began = time.perf_counter()
        path = checkpoint.save(folder, checkpoint.stem(1, number), network, step.state(), {"step": number})
        checkpoint.prune(folder, 2)
        seconds.append(time.perf_counter() - began)
    size = sum(file.stat().st_size for file in folder.glob(f"{path.stem}.*")) / 1e6
    spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
    print(f"checkpoint of {size:.0f} MB: median {statistics.median(seconds):.2f} s {spread}")


def start(folder: Path, rounds: int = 1) -> None:
    """Start the trainer on the full network, small clips, with an empty and then with a filled cache."""
    full = {
        "model.stage_channels": "[64, 128, 256, 512]",
        "train.epochs": "1",
        "data_loader.train.dataset.batch_size": "2",
    }
    document = store(folder, 64, 86, 2, full)
    config = folder / "full.yaml"
    config.write_text(json.dumps(document.values))
    seconds: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for number in range(rounds):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": f"{folder}/cache{number}"}
        for arm in seconds:
            runs = folder / f"runs-{number}-{arm}"
            began = time.time()
            command = [sys.executable, "-m", "train.train", "-c", str(config), f"--train.ckpt_path={runs}"]
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
            (run,) = runs.glob("full/*")
            stepped = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["time"]
            line = next(text for text in (run / "train.log").read_text().splitlines() if " training on " in text)
            entered = datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
            seconds[arm].append((stepped - began, stepped - entered))
    for part, what in enumerate(("process start to", "loop entered to")):
        cold, warm = (statistics.median(times[part] for times in taken) for taken in seconds.values())
        print(f"{what} the end of the first full-width step: cold {cold:.1f} s, warm {warm:.1f} s: {warm / cold:.2f}")


def main() -> None:
    """Run the parts asked for, or all."""
    parts = {"streaming": streaming, "checkpoint": checkpoints, "start": start}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="default: all")
    for name in parser.parse_args().parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
