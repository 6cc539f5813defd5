"""The trainer around the step: streaming against a resident batch, checkpoints, time to the first step.

    python tests/benchmarks/bench_train.py [streaming] [streaming-full] [checkpoint] [start] [--tiny]

streaming       the training loop (batches out of shards, step, statistics, metrics, log) and the bare step on one batch
                in memory take turns, with the sample's network; the target is 0.99 of the bare step's speed
streaming-full  the same with R(2+1)D-18 and one clip a step, of 16x112x112
checkpoint      how long the full R(2+1)D-18 with its moments keeps training waiting; the target is 1 s
start           to the end of the first step of the full R(2+1)D-18 (small clips), from the start of the process and
                from that of the training loop, with a cold and with a warm compile cache; the target is half
"""

from __future__ import annotations

import argparse
import contextlib
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
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import model  # noqa: E402, F401  before mindspore

# isort: split
import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from make_store import make_split, settings_for  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from model.r2plus1d import r2plus1d_18  # noqa: E402
from pipeline.common.settings import Document, to_plain  # noqa: E402
from train.data.clip_batches import Batch  # noqa: E402
from train.device.processes import World  # noqa: E402
from train.experiment.load import load_config  # noqa: E402
from train.experiment.sections import Optimizer  # noqa: E402
from train.loop.log_values import Interval  # noqa: E402
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer  # noqa: E402
from train.loop.trainer import Trainer  # noqa: E402
from train.weights import checkpoint  # noqa: E402

SAMPLE = ROOT / "train" / "configs" / "sample.yaml"
MANY_CLIPS = {"data_loader.train.dataset.num_clips": "16"}  # an epoch outlasts the measurement


def store(folder: Path, height: int, width: int, num_videos: int, overrides: dict[str, str]) -> Document:
    """A made-up store of videos of 40 frames, and the sample's configuration on it."""
    settings = settings_for(folder, height=height, width=width, videos_per_shard=32)
    make_split(settings, "train", num_videos, length=40)
    typed = {key: value if isinstance(value, str) else json.dumps(value) for key, value in to_plain(settings).items()}
    paths = {f"preprocess.{key}": text for key, text in typed.items()}
    return Document(SAMPLE, {**paths, "train.eval_epochs": "0", **overrides})


class Done(Exception):  # noqa: N818
    """Enough blocks are measured."""


class Turns(Trainer):
    """A training that after every `block` steps of its loop makes as many of the bare step on one resident batch.

    Attributes:
        streamed, resident: (seconds, CPU seconds of all threads) of each block; a resident one before every streamed
            one, and one after the last.
    """

    def take_turns(self, block: int, pairs: int) -> None:
        """Train until there are so many pairs of blocks."""
        self.streamed: list[tuple[float, float]] = []
        self.resident: list[tuple[float, float]] = []
        self._block, self._pairs = block, pairs
        with contextlib.suppress(Done):
            self.fit()

    def _step(self, batches: Iterator[Batch], interval: Interval, epoch: int) -> float:
        if self.position.step == 0:
            self.source.set_epoch(epoch)  # what yields `batches` has not begun
            clips, labels, _samples = self.source.batch(0)
            self._batch = (Tensor(clips.copy()), Tensor(labels))
        warm = self.position.step - self._block  # the first block compiles and starts threads
        if warm >= 0 and warm % self._block == 0:
            if warm:
                self.streamed.append(self._since())
            self._began = now()
            for _ in range(self._block):
                loss, logits = self.train_step(*self._batch, True, None)
                loss.asnumpy(), logits.asnumpy()
            self.resident.append(self._since())
            if len(self.streamed) == self._pairs:
                raise Done
            self._began = now()
        return super()._step(batches, interval, epoch)

    def _since(self) -> tuple[float, float]:
        wall, cpu = now()
        return wall - self._began[0], cpu - self._began[1]


def now() -> tuple[float, float]:
    """Wall clock and this process's CPU, seconds."""
    return time.perf_counter(), time.process_time()


def interval_of_median(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the medians of resampled values (bootstrap)."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (5000, len(values))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def streaming(folder: Path, tiny: bool) -> None:
    """The sample's network, on frames of its size."""
    document = store(folder, 64, 86, 16 if tiny else 120, MANY_CLIPS)
    take_turns("sample's network, 8x56x56", document, block=5, pairs=1 if tiny else 60)


def streaming_full(folder: Path, tiny: bool) -> None:
    """R(2+1)D-18 on frames of Kinetics' size; one clip a step is where the loop's own time counts most."""
    full = {
        "model.stage_channels": "[64, 128, 256, 512]",
        "model.stage_strides": "null",
        "data_loader.train.dataset.batch_size": "1",
        "data_loader.train.dataset.seq": "16",
        "data_loader.train.dataset.frame_interval": "1",
        "data_loader.train.map.operations": json.dumps(operations("VideoRandomCrop")),
        "data_loader.eval.map.operations": json.dumps(operations("VideoCenterCrop")),
    }
    document = store(folder, 128, 171, 4 if tiny else 120, {**MANY_CLIPS, **full})
    take_turns("R(2+1)D-18, 16x112x112", document, block=1, pairs=1 if tiny else 35)


def take_turns(name: str, document: Document, *, block: int, pairs: int) -> None:
    """Hold each streamed block against the mean of the resident blocks around it, and print the ratios."""
    ms.set_context(mode=ms.GRAPH_MODE)
    training = Turns(load_config(document), World(), None)
    training.take_turns(block, pairs)
    resident, streamed = np.array(training.resident), np.array(training.streamed)
    ratios = (resident[:-1] + resident[1:]) / 2 / streamed
    clips = training.clips_per_step
    print(
        f"streaming, {name}: {pairs} pairs of blocks of {block} steps of {clips} clips; a bare step takes "
        f"{np.median(resident[:, 0]) / block:.3f} s and {np.median(resident[:, 1]) / block:.3f} s of CPU"
    )
    for column, what in enumerate(("clips/s", "clips per CPU second")):
        values = ratios[:, column]
        low, high = interval_of_median(values)
        print(
            f"  {what}, streamed over resident: {np.median(values):.4f} (95 % {low:.4f} to {high:.4f}; half of the "
            f"pairs {np.quantile(values, 0.25):.3f} to {np.quantile(values, 0.75):.3f})"
        )


def operations(crop: str) -> list[dict[str, object]]:
    """zjut_mindvideo's transforms, without mirroring."""
    return [
        {"type": "VideoRescale", "shift": 0.0},
        {"type": "VideoResize", "size": [128, 171]},
        {"type": crop, "size": [112, 112]},
        {"type": "VideoReOrder", "order": [3, 0, 1, 2]},
        {"type": "VideoNormalize", "mean": [0.43216, 0.394666, 0.37645], "std": [0.22803, 0.22145, 0.216989]},
    ]


def checkpoints(folder: Path, tiny: bool) -> None:
    """Save the full network and its optimizer."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network, settings = r2plus1d_18(num_classes=400), Optimizer()
    step = TrainStep(NetworkWithLoss(network, nn.Identity()), make_optimizer(settings, network, [0.1] * 9), settings)
    seconds = []
    for number in range(1 if tiny else 7):
        began = time.perf_counter()
        path = checkpoint.save(folder, checkpoint.stem(1, number), network, step.state(), {"step": number})
        checkpoint.prune(folder, 2)
        seconds.append(time.perf_counter() - began)
    size = sum(file.stat().st_size for file in folder.glob(f"{path.stem}.*")) / 1e6
    spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
    print(f"checkpoint of {size:.0f} MB: median {statistics.median(seconds):.2f} s {spread}")


def start(folder: Path, tiny: bool) -> None:
    """Start the trainer on the full network, small clips, with an empty and then with a filled cache."""
    full = {
        "model.stage_channels": "[4, 4, 8, 8]" if tiny else "[64, 128, 256, 512]",
        "train.epochs": "1",
        "data_loader.train.dataset.batch_size": "2",
    }
    document = store(folder, 64, 86, 2, full)
    config = folder / "full.yaml"
    config.write_text(json.dumps(to_plain(load_config(document))))
    seconds: dict[str, tuple[float, float]] = {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": f"{folder}/cache"}
    for arm in ("cold", "warm"):
        runs = folder / f"runs-{arm}"
        began = time.time()
        command = [sys.executable, "-m", "train.train", "-c", str(config), f"--train.ckpt_path={runs}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        (run,) = runs.glob("full/*")
        stepped = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["time"]
        line = next(text for text in (run / "train.log").read_text().splitlines() if " training on " in text)
        entered = datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        seconds[arm] = (stepped - began, stepped - entered)
    for part, what in enumerate(("process start to", "loop entered to")):
        cold, warm = seconds["cold"][part], seconds["warm"][part]
        print(f"{what} the end of the first full-width step: cold {cold:.1f} s, warm {warm:.1f} s: {warm / cold:.2f}")


def main() -> None:
    """Run the parts asked for, or all."""
    parts = {"streaming": streaming, "streaming-full": streaming_full, "checkpoint": checkpoints, "start": start}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="default: all")
    parser.add_argument("--tiny", action="store_true", help="one round on a few videos: a test of this script")
    args = parser.parse_args()
    for name in args.parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder), args.tiny)


if __name__ == "__main__":
    main()
