"""What bench_gpu.py times and check_gpu.py checks: this network, torchvision's, a copy, training out of shards."""

from __future__ import annotations

import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
RESOURCES = ROOT / "tests" / "resources"
CHECKED = (2, 3, 8, 56, 56)  # clips whose logits torchvision has given
NUM_CLASSES = 400
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
SINK_STEPS = 8  # to a launch

Run = Callable[[str], int]  # makes steps, `train` or `forward`, waits for them, and says how many


@dataclass(frozen=True)
class Arm:
    """What is measured.

    Layout is `model.layout`, or NTHWC with mid-planes as published, `unpadded`, or with batch norms and ReLUs kept
    apart, `unfused`.  Precision is `train.amp_level`; in PyTorch, anything but O0 is autocast to float16.  Convolutions
    are `normal` or `performance`, see `train.device.select.choose_convolutions`.
    """

    library: str
    layout: str = "NCTHW"
    precision: str = "O0"
    feed: str = "resident"
    jit: str = "O0"
    convolutions: str = "normal"

    @classmethod
    def parse(cls, text: str) -> Arm:
        """`mindspore:NTHWC:O3`; what is left out is the default."""
        return cls(*text.split(":"))

    def __str__(self) -> str:
        """What `parse` takes, without defaults at its end."""
        words = list(asdict(self).values())
        while words[-1] == getattr(Arm, list(asdict(self))[len(words) - 1], None):
            words.pop()
        return ":".join(words)


def stored_clips(batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Clips (N, T, H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (batch, *shape, 3), dtype=np.uint8)


def normalized(clips: np.ndarray) -> np.ndarray:
    """As train.network.normalize does it, on the host: (N, 3, T, H, W) float32."""
    values = (clips.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(values.transpose(0, 4, 1, 2, 3))


def reference_weights(names_and_shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """The weights that torchvision's logits in tests/resources are of, by torchvision's names."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from reference_weights import weight

    return {name: weight(name, shape) for name, shape in names_and_shapes}


def difference(logits: np.ndarray) -> float:
    """To torchvision's logits, relative to the largest."""
    expected = np.load(RESOURCES / "parity_logits.npz")[f"logits_{'x'.join(map(str, CHECKED))}_seed0"]
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def loss_difference(losses: list[float]) -> float:
    """To PyTorch's losses of the same steps, relative, the largest."""
    expected = np.load(RESOURCES / "loss_curve.npz")["loss64"][: len(losses)]
    return float(np.abs(np.array(losses) / expected - 1).max())


def checked_clips() -> np.ndarray:
    """The clips (N, 3, T, H, W) that torchvision's logits in tests/resources are of."""
    return np.random.default_rng([0, 7]).standard_normal(CHECKED).astype(np.float32)


def resident(ms: Any, values: np.ndarray, name: str = "clips") -> Any:
    """On the device to stay: MindSpore 2.10 copies a Tensor that a graph is given at every call, a Parameter once."""
    return ms.Parameter(ms.Tensor(values), name=f"resident_{name}", requires_grad=False)


def seconds_of(run: Run, what: str, rounds: int) -> float:
    """Of a step: median of some rounds, after two that compile and warm up."""
    taken = []
    for number in range(rounds + 2):
        began = time.perf_counter()
        steps = run(what)
        if number >= 2:
            taken.append((time.perf_counter() - began) / steps)
    return statistics.median(taken)


def open_mindspore(device: str) -> Any:
    """The module, with its device chosen and graphs on.

    Raises:
        RuntimeError: no GPU can be used, and why.
    """
    import train

    if device == "GPU" and train.GPU_PROBLEM:
        raise RuntimeError(train.GPU_PROBLEM)
    import mindspore as ms

    if ms.get_context("device_target") != device:
        ms.set_device(device)
    ms.set_context(mode=ms.GRAPH_MODE)
    return ms


class MindSpore:
    """The arms of this project; on a GPU, `tf32` is whether float32 is rounded as in training."""

    def __init__(self, arm: Arm, device: str, *, tf32: bool = True) -> None:
        from train.device import nvidia
        from train.device.select import allow_tf32, choose_convolutions

        self.ms, self.arm = open_mindspore(device), arm
        self.ms.set_context(jit_config={"jit_level": arm.jit})
        self.facts = {"mindspore": self.ms.__version__, "device": device}
        if device == "GPU":
            choose_convolutions(arm.convolutions)
            allow_tf32(tf32)
            driver, cudnn = nvidia.Driver(), importlib.metadata.version("nvidia-cudnn-cu11")
            self.facts |= {"device": driver.cards[0].name, "driver": f"{driver.version}, CUDA {driver.cuda}"}
            self.facts["MindSpore's cuDNN"] = cudnn
        self.network = self._build(arm.layout, arm.precision)

    def _build(self, layout: str, precision: str) -> Any:
        from model import channels_last, weights
        from train.experiment.sections import Model
        from train.network.build import build_network
        from train.network.precision import set_amp_level

        if layout in ("unpadded", "unfused"):
            channels_last.PLANES, channels_last.FUSE, layout = (
                (1, True, "NTHWC") if layout == "unpadded" else (8, False, "NTHWC")
            )
        network = build_network(Model(num_classes=NUM_CLASSES, layout=layout))
        names = {name: weights.torchvision_name(name) for name in weights.parameters(network)}
        shapes = [(names[name], tuple(p.shape)) for name, p in weights.parameters(network).items()]
        values = reference_weights(shapes)
        weights.assign(network, {name: values[theirs] for name, theirs in names.items()}, source="reference")
        set_amp_level(network, precision)
        return network

    def logits(self) -> np.ndarray:
        self.network.set_train(False)
        return self.network(self.ms.Tensor(checked_clips())).asnumpy().astype(np.float32)

    def losses(self, steps: int) -> list[float]:
        """Of the first training steps of the curve that PyTorch's losses in tests/resources are of."""
        from mindspore import nn
        from reference_weights import training_batch

        from model import weights
        from train.experiment.sections import Optimizer
        from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer

        network = self._build(self.arm.layout, self.arm.precision)
        last = {name: p.asnumpy().copy() for name, p in weights.parameters(network).items()}
        last["fc.weight"] *= np.float32(0.05)
        last["fc.bias"][:] = 0
        weights.assign(network, last, source="reference")
        options = Optimizer(weight_decay=1e-4, loss_scale=1.0 if self.arm.precision == "O0" else 1024.0)
        step = TrainStep(
            NetworkWithLoss(network, nn.Identity()), make_optimizer(options, network, [0.001] * steps), options
        ).set_train(True)
        batches = map(training_batch, range(steps))
        return [float(step(*map(self.ms.Tensor, batch))[0].asnumpy()) for batch in batches]

    def statistics(self) -> float:
        """How far a forward pass in training leaves the batch norms' statistics from the plain layout's in float32."""
        from model import weights

        found = []
        for layout, precision in ((self.arm.layout, self.arm.precision), ("NCTHW", "O0")):
            network = self._build(layout, precision).set_train(True)
            network(self.ms.Tensor(checked_clips())).asnumpy()
            found.append({n: p.asnumpy() for n, p in weights.parameters(network).items() if "bn2d.moving" in n})
        ours, plain = found
        return max(float(np.abs(ours[name] - plain[name]).max() / np.abs(plain[name]).max()) for name in plain)

    def prepare(self, batch: int, shape: tuple[int, int, int]) -> Run:
        from mindspore import nn

        from train.experiment.sections import Optimizer
        from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
        from train.network.normalize import Normalize
        from train.network.predictor import Predictor

        on_host = self.arm.feed == "float32"
        normalize = nn.Identity() if on_host else Normalize(MEAN, STD)
        options = Optimizer(loss_scale=1.0 if self.arm.precision == "O0" else 1024.0)
        step = TrainStep(
            NetworkWithLoss(self.network, normalize), make_optimizer(options, self.network, [1e-4] * 10_000), options
        )
        predictor = Predictor(self.network, normalize)
        clips, labels = stored_clips(batch, shape), self.ms.Tensor(np.zeros(batch, np.int32))
        if self.arm.feed == "sink":
            return self._sunk(step, clips)
        kept = resident(self.ms, clips)

        def run(what: str) -> int:
            given = kept
            if self.arm.feed != "resident":
                given = self.ms.Tensor(normalized(clips) if on_host else clips)
            if what == "train":
                step.set_train(True)
                step(given, labels)[0].asnumpy()
            else:
                predictor.set_train(False)
                predictor(given).asnumpy()
            return 1

        return run

    def _sunk(self, step: Any, clips: np.ndarray) -> Run:
        """Training steps that take their batches from MindSpore's queue on the device."""
        item = clips, np.zeros(len(clips), np.int32)
        batches = self.ms.dataset.GeneratorDataset([item] * SINK_STEPS, ["clips", "labels"], shuffle=False)
        step.set_train(True)
        jit_config = self.ms.JitConfig(jit_level=self.arm.jit)
        launch = self.ms.data_sink(step, batches, sink_size=SINK_STEPS, jit_config=jit_config)
        done = 0

        def run(_what: str) -> int:
            nonlocal done
            launch()[0].asnumpy()
            # Counted: MindSpore 2.10 loops over the queue in Python, and its runtime may do so once more inside.
            before, done = done, int(step.optimizer.global_step.asnumpy()[0])
            return done - before

        return run


class Torch:
    """torchvision's network, with what PyTorch offers: autocast, channels_last_3d, cudnn.benchmark."""

    def __init__(self, arm: Arm, device: str) -> None:
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")  # its compiled operators may not fit this torch
        self.torch, self.arm, self.device = torch, arm, "cuda" if device == "GPU" else "cpu"
        if device == "GPU" and not torch.cuda.is_available():
            raise RuntimeError("this PyTorch sees no GPU")
        try:
            from torchvision.models.video import r2plus1d_18
        except RuntimeError:
            for name in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
                library.define(name)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            from torchvision.models.video import r2plus1d_18
        torch.backends.cudnn.benchmark = True
        self.facts = {"torch": torch.__version__, "PyTorch's cuDNN": str(torch.backends.cudnn.version())}
        self.network = r2plus1d_18(num_classes=NUM_CLASSES)
        held = {name: value for name, value in self.network.state_dict().items() if "num_batches" not in name}
        values = reference_weights((name, tuple(value.shape)) for name, value in held.items())
        self.network.load_state_dict({name: torch.from_numpy(v) for name, v in values.items()}, strict=False)
        self.network.to(self.device)
        self.format = torch.channels_last_3d if arm.layout == "NTHWC" else torch.contiguous_format
        self.network.to(memory_format=self.format)

    def _forward(self, clips: Any) -> Any:
        dtype = self.torch.float16 if self.device == "cuda" else self.torch.bfloat16
        with self.torch.autocast(self.device, dtype=dtype, enabled=self.arm.precision != "O0"):
            return self.network(clips.to(memory_format=self.format))

    def logits(self) -> np.ndarray:
        self.network.eval()
        with self.torch.no_grad():
            return self._forward(self.torch.from_numpy(checked_clips()).to(self.device)).float().cpu().numpy()

    def prepare(self, batch: int, shape: tuple[int, int, int]) -> Run:
        torch = self.torch
        clips = torch.from_numpy(stored_clips(batch, shape)).to(self.device)
        mean, std = torch.tensor(MEAN, device=self.device), torch.tensor(STD, device=self.device)
        labels = torch.zeros(batch, dtype=torch.long, device=self.device)
        optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-4)
        scaler = torch.amp.GradScaler(self.device, enabled=self.device == "cuda" and self.arm.precision != "O0")

        def run(what: str) -> int:
            given = ((clips.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3)
            if what == "train":
                self.network.train()
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(self._forward(given).float(), labels)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                loss.item()
            else:
                self.network.eval()
                with torch.no_grad():
                    self._forward(given).float().cpu()
            return 1

        return run


def copy_bandwidth(device: str, num_bytes: int, rounds: int) -> float:
    """GB/s, read and written, of copying an array on the device, ten times between two waits."""
    ms = open_mindspore(device)
    from mindspore import ops

    source, target = (
        ms.Parameter(ms.Tensor(np.full(num_bytes // 4, value, np.float32)), name=f"values{value}") for value in (1, 2)
    )

    class Copy(ms.nn.Cell):
        def construct(self) -> ms.Tensor:
            return ops.assign(target, source)

    copy = Copy()

    def run(_what: str) -> int:
        for _ in range(10):
            copy()
        target[:1].asnumpy()
        return 10

    return 2 * num_bytes / seconds_of(run, "", rounds) / 1e9


def streamed_over_resident(arm: Arm, device: str, config_path: str, overrides: list[str], rounds: int) -> float:
    """Clips a second out of shards over those of a batch that stays on the device, in turns, one epoch at a time."""
    from pipeline.common.settings import Document
    from train.experiment.load import load_config

    words = dict(word.removeprefix("--").split("=", 1) for word in overrides)
    config = load_config(Document(config_path, words))
    ms = open_mindspore(device)
    from train.data.clip_batches import ClipBatches
    from train.data.loader import iterate
    from train.data.videos import read_videos
    from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
    from train.network.build import build_network
    from train.network.normalize import Normalize
    from train.network.precision import set_amp_level

    loader = config.data_loader.train
    videos = read_videos(config.preprocess, loader.dataset.split)
    source = ClipBatches(videos, loader, config.preprocess, seed=0, drop_remainder=True)
    network = build_network(config.model)
    set_amp_level(network, arm.precision)
    optimizer = make_optimizer(config.optimizer, network, [1e-4] * 1_000_000)
    seen = loader.transforms(config.preprocess.frame_size)
    step = TrainStep(NetworkWithLoss(network, Normalize(seen.mean, seen.std)), optimizer, config.optimizer).set_train(
        True
    )
    clips, labels, _samples = next(iter(iterate(source, 0)))
    kept, marks = resident(ms, np.array(clips)), resident(ms, np.array(labels), "labels")
    step(ms.Tensor(np.array(clips)), ms.Tensor(np.array(labels)))[0].asnumpy()  # a graph for each kind of input
    step(kept, marks)[0].asnumpy()
    ratios = []
    for epoch in range(1, rounds + 1):
        began = time.perf_counter()
        for clips, labels, _samples in iterate(source, epoch):
            step(ms.Tensor(clips), ms.Tensor(labels))[0].asnumpy()
        streamed, began = time.perf_counter() - began, time.perf_counter()
        for _ in range(source.num_batches):
            step(kept, marks)[0].asnumpy()
        ratios.append((time.perf_counter() - began) / streamed)
    return statistics.median(ratios)
