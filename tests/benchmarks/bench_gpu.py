"""R(2+1)D-18 on a GPU: checks each arm's logits, then times it, beside PyTorch and a copy.       (make bench-gpu)

    python tests/benchmarks/bench_gpu.py [-c CONFIG] [--batches 8 16 32 64 128] [--torch-python PYTHON] [--json FILE]
    python tests/benchmarks/bench_gpu.py --device CPU --tiny        a test of the script itself

An arm is one library, layout, precision, feed and jit level, in a process of its own: weights are functions of their
names, logits must be torchvision's (tests/resources), and only then steps are timed, each after the one before.  Feeds:
`resident`, the clips are on the device; `uint8`, they come from the host and are normalised on the device; `float32`,
they are normalised on the host.  `streamed` trains on CONFIG's shards, in turns with steps on a resident batch.
PyTorch may live in another environment (`--torch-python`).  Median of --rounds.  Table on stdout; --json has all of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
RESOURCES = ROOT / "tests" / "resources"
CHECKED = (2, 3, 8, 56, 56)  # clips whose logits torchvision has given
TOLERANCE = {"O0": 5e-3, "O2": 5e-2, "O3": 5e-2}  # of the largest logit; TF32 counts as float32
CLIP_BYTES = 1.8e9  # that a training step moves for a clip of 16 x 112 x 112 in float16, about 14 passes
NUM_CLASSES = 400
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)

Run = Callable[[str], None]  # makes one step, `train` or `forward`, and waits for it


@dataclass(frozen=True)
class Arm:
    """What is measured.  Precision is `train.amp_level`'s; in PyTorch, anything but O0 is autocast to float16."""

    library: str
    layout: str = "NCTHW"
    precision: str = "O0"
    feed: str = "resident"
    jit: str = "O0"

    @classmethod
    def parse(cls, text: str) -> Arm:
        """`mindspore:NTHWC:O3`; what is left out is the default."""
        return cls(*text.split(":"))

    def __str__(self) -> str:
        return ":".join(asdict(self).values())


NAIVE, BEST = Arm("mindspore"), Arm("mindspore", "NTHWC", "O3")
TORCH = (Arm("torch"), Arm("torch", "NTHWC"), Arm("torch", "NCTHW", "O2"), Arm("torch", "NTHWC", "O2"))
ARMS = (
    NAIVE, Arm("mindspore", "NCTHW", "O2"), Arm("mindspore", "NCTHW", "O3"),
    Arm("mindspore", "NTHWC"), Arm("mindspore", "NTHWC", "O2"), BEST,
    Arm("mindspore", "NTHWC", "O3", "uint8"), Arm("mindspore", "NTHWC", "O3", "float32"),
    Arm("mindspore", "NTHWC", "O3", "resident", "O1"), *TORCH, Arm("copy"), Arm("streamed", "NTHWC", "O3"),
)  # fmt: skip


@dataclass
class Result:
    """What one arm gave.

    Attributes:
        facts: versions and the card.
        difference: of its logits to torchvision's, relative to the largest; None where there are none.
        clips_per_s: by `train` or `forward`, and batch.
        values: anything else: gb_per_s of copy, streamed_over_resident; how far batch norms' statistics are from
            those of the plain layout.
        fault: why it has not been measured, in one line.
    """

    arm: str
    facts: dict[str, str] = field(default_factory=dict)
    difference: float | None = None
    clips_per_s: dict[str, dict[str, float]] = field(default_factory=lambda: {"train": {}, "forward": {}})
    values: dict[str, float] = field(default_factory=dict)
    fault: str = ""


def stored_clips(batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Clips (N, T, H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (batch, *shape, 3), dtype=np.uint8)


def normalized(clips: np.ndarray) -> np.ndarray:
    """As train.augment.Normalize does it, on the host: (N, 3, T, H, W) float32."""
    values = (clips.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(values.transpose(0, 4, 1, 2, 3))


def reference_weights(names_and_shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """The weights that torchvision's logits in tests/resources are of, by torchvision's names."""
    sys.path.insert(0, str(ROOT / "tests"))
    from reference_weights import weight

    return {name: weight(name, shape) for name, shape in names_and_shapes}


def difference(logits: np.ndarray) -> float:
    """To torchvision's logits, relative to the largest."""
    expected = np.load(RESOURCES / "parity_logits.npz")[f"logits_{'x'.join(map(str, CHECKED))}_seed0"]
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def checked_clips() -> np.ndarray:
    """The clips (N, 3, T, H, W) that torchvision's logits in tests/resources are of."""
    return np.random.default_rng([0, 7]).standard_normal(CHECKED).astype(np.float32)


def seconds_of(run: Run, what: str, rounds: int) -> float:
    """Median of some rounds, after two that compile and warm up."""
    taken = []
    for number in range(rounds + 2):
        began = time.perf_counter()
        run(what)
        if number >= 2:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


class MindSpore:
    """The arms of this project."""

    def __init__(self, arm: Arm, device: str) -> None:
        import train
        from train import gpu

        if device == "GPU" and train.GPU_FAULT:
            raise RuntimeError(train.GPU_FAULT)
        import mindspore as ms

        if ms.get_context("device_target") != device:
            ms.set_device(device)
        ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": arm.jit})
        self.ms, self.arm = ms, arm
        self.facts = {"mindspore": ms.__version__, "device": device}
        if device == "GPU":
            driver = gpu.Driver()
            self.facts |= {"device": driver.cards[0].name, "driver": f"CUDA {driver.cuda}"}
        self.network = self._build(arm.layout, arm.precision)

    def _build(self, layout: str, precision: str) -> Any:
        from model import weights
        from train.config import Model
        from train.network import build_network
        from train.precision import set_amp_level

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

        from train.augment import Normalize
        from train.config import Optimizer
        from train.network import Predictor
        from train.step import Loss, TrainStep, make_optimizer

        on_host = self.arm.feed == "float32"
        normalize = nn.Identity() if on_host else Normalize(MEAN, STD)
        options = Optimizer(loss_scale=1.0 if self.arm.precision == "O0" else 1024.0)
        step = TrainStep(Loss(self.network, normalize), make_optimizer(options, self.network, [1e-4] * 10_000), options)
        predictor = Predictor(self.network, normalize)
        clips, labels = stored_clips(batch, shape), self.ms.Tensor(np.zeros(batch, np.int32))
        resident = self.ms.Tensor(clips)

        def run(what: str) -> None:
            given = resident
            if self.arm.feed != "resident":
                given = self.ms.Tensor(normalized(clips) if on_host else clips)
            if what == "train":
                step.set_train(True)
                step(given, labels)[0].asnumpy()
            else:
                predictor.set_train(False)
                predictor(given).asnumpy()

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
        self.facts = {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}
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

        def run(what: str) -> None:
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

        return run


def copy_bandwidth(device: str, num_bytes: int, rounds: int) -> float:
    """GB/s, read and written, of copying an array on the device, ten times between two waits."""
    import train

    if device == "GPU" and train.GPU_FAULT:
        raise RuntimeError(train.GPU_FAULT)
    import mindspore as ms
    from mindspore import ops

    if ms.get_context("device_target") != device:
        ms.set_device(device)
    source, target = (
        ms.Parameter(ms.Tensor(np.full(num_bytes // 4, value, np.float32)), name=f"values{value}") for value in (1, 2)
    )

    class Copy(ms.nn.Cell):
        def construct(self) -> ms.Tensor:
            return ops.assign(target, source)

    copy = Copy()

    def run(_what: str) -> None:
        for _ in range(10):
            copy()
        target[:1].asnumpy()

    return 2 * num_bytes * 10 / seconds_of(run, "", rounds) / 1e9


def streamed_over_resident(arm: Arm, device: str, config_path: str, overrides: list[str], rounds: int) -> float:
    """Clips a second out of shards over those of a batch that stays on the device, in turns, one epoch at a time."""
    import train
    from pipeline.settings import Document
    from train import config as configuration

    words = dict(word.removeprefix("--").split("=", 1) for word in overrides)
    config = configuration.load(Document(config_path, words))
    if device == "GPU" and train.GPU_FAULT:
        raise RuntimeError(train.GPU_FAULT)
    import mindspore as ms

    from train.augment import Normalize
    from train.dataset import ClipBatches, iterate
    from train.network import build_network
    from train.precision import set_amp_level
    from train.step import Loss, TrainStep, make_optimizer
    from train.videos import read_videos

    if ms.get_context("device_target") != device:
        ms.set_device(device)
    ms.set_context(mode=ms.GRAPH_MODE)
    loader = config.data_loader.train
    videos = read_videos(config.preprocess, loader.dataset.split)
    source = ClipBatches(videos, loader, config.preprocess, seed=0, drop_remainder=True)
    network = build_network(config.model)
    set_amp_level(network, arm.precision)
    optimizer = make_optimizer(config.optimizer, network, [1e-4] * 1_000_000)
    step = TrainStep(Loss(network, Normalize.of(loader.map)), optimizer, config.optimizer).set_train(True)
    clips, labels, _samples = next(iter(iterate(source, 0)))
    resident, marks = ms.Tensor(np.array(clips)), ms.Tensor(np.array(labels))
    step(resident, marks)[0].asnumpy()
    ratios = []
    for epoch in range(1, rounds + 1):
        began = time.perf_counter()
        for clips, labels, _samples in iterate(source, epoch):
            step(ms.Tensor(clips), ms.Tensor(labels))[0].asnumpy()
        streamed, began = time.perf_counter() - began, time.perf_counter()
        for _ in range(source.num_batches):
            step(resident, marks)[0].asnumpy()
        ratios.append((time.perf_counter() - began) / streamed)
    return statistics.median(ratios)


def measure(arm: Arm, args: argparse.Namespace) -> Result:
    """Run one arm in this process."""
    result = Result(str(arm))
    shape = (2, 32, 32) if args.tiny else (16, 112, 112)
    try:
        if arm.library == "copy":
            result.values["gb_per_s"] = copy_bandwidth(args.device, 2**24 if args.tiny else 2**30, args.rounds)
            return result
        if arm.library == "streamed":
            ratio = streamed_over_resident(arm, args.device, args.config, args.override, args.rounds)
            result.values["streamed_over_resident"] = ratio
            return result
        library = {"mindspore": MindSpore, "torch": Torch}[arm.library](arm, args.device)
        result.facts, result.difference = library.facts, difference(library.logits())
        if not result.difference <= TOLERANCE[arm.precision]:
            result.fault = f"wrong: logits differ by {result.difference:.1e}, {TOLERANCE[arm.precision]:g} is allowed"
            return result
        if arm.library == "mindspore" and arm.layout == "NTHWC":
            result.values["statistics"] = library.statistics()
            if not result.values["statistics"] <= TOLERANCE[arm.precision]:
                result.fault = f"wrong: batch norms' statistics differ by {result.values['statistics']:.1e}"
                return result
        for batch in args.batches:
            run = library.prepare(batch, shape)
            for what in ("train", "forward"):
                result.clips_per_s[what][str(batch)] = batch / seconds_of(run, what, args.rounds)
    except Exception as error:  # what was measured before it counts; the table says why there is no more
        lines = [line for line in str(error).splitlines() if line.strip("- ")] or [""]
        result.fault = f"{type(error).__name__}: {lines[0]}"
    return result


def targets(results: list[Result], clip_scale: float = 1.0) -> list[tuple[str, float, float]]:
    """(what, ratio, target) for each target whose arms were measured; a training step, each arm at its best batch.

    Args:
        results: of every arm.
        clip_scale: pixels of the clips over those of 16 x 112 x 112.
    """
    best = {result.arm: max(result.clips_per_s["train"].values(), default=0.0) for result in results}
    values = {name: value for result in results for name, value in result.values.items()}
    ours, naive = best.get(str(BEST), 0.0), best.get(str(NAIVE), 0.0)
    torch = max((best.get(str(arm), 0.0) for arm in TORCH), default=0.0)
    rows = []
    if ours and naive:
        rows.append(("float16 NTHWC / float32 NCTHW", ours / naive, 4.0))
    if ours and torch:
        rows.append(("float16 NTHWC / PyTorch's best", ours / torch, 0.95))
    if ours and "gb_per_s" in values:
        rows.append(
            ("float16 NTHWC / bandwidth bound", ours * CLIP_BYTES * clip_scale / values["gb_per_s"] / 1e9, 0.35)
        )
    if "streamed_over_resident" in values:
        rows.append(("streamed from shards / resident", values["streamed_over_resident"], 0.99))
    return rows


def print_table(results: list[Result], batches: list[int]) -> None:
    """Clips a second of every arm, and why where there are none."""
    print(f"{'arm':36} {'logits':>8}  " + "  ".join(f"{w[:5]} {b:>4}" for w in ("train", "forward") for b in batches))
    for result in results:
        cells = [result.clips_per_s[what].get(str(b)) for what in ("train", "forward") for b in batches]
        logits = "" if result.difference is None else f"{result.difference:.1e}"
        line = "  ".join(f"{'' if cell is None else f'{cell:.1f}':>10}" for cell in cells)
        other = " ".join(f"{name} {value:.3g}" for name, value in result.values.items())
        print(f"{result.arm:36} {logits:>8}  {line} {other} {result.fault}".rstrip())


def main(argv: list[str] | None = None) -> None:
    """Run the arms one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", default="train/configs/sample.yaml", help="whose shards are streamed")
    parser.add_argument("--device", choices=("GPU", "CPU"), default="GPU")
    parser.add_argument("--tiny", action="store_true", help="clips of 3x2x32x32: a test of this script")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--arms", nargs="+", default=[str(arm) for arm in ARMS], metavar="LIBRARY[:LAYOUT[:...]]")
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that has torch and torchvision")
    parser.add_argument("--json", type=Path, help="write everything here, too")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one arm, in this process
    args, args.override = parser.parse_known_args(argv)
    if wrong := [word for word in args.override if not word.startswith("--") or "=" not in word]:
        parser.error(f"unrecognized argument: {wrong[0]} (overrides of CONFIG look like --section.key=value)")
    args.batches = args.batches or ([1] if args.tiny else [8, 16, 32, 64, 128])
    args.rounds = args.rounds or (1 if args.tiny else 20)
    if args.measure:
        print(json.dumps(asdict(measure(Arm.parse(args.measure), args))))
        return
    results = []
    for arm in map(Arm.parse, args.arms):
        python = args.torch_python if arm.library == "torch" else sys.executable
        words = [*(argv if argv is not None else sys.argv[1:]), "--measure", str(arm)]
        done = subprocess.run([python, __file__, *words], cwd=ROOT, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            said = done.stderr.strip().splitlines() or ["nothing said"]
            results.append(Result(str(arm), fault=f"ended with {done.returncode}: {said[-1]}"))
        else:
            results.append(Result(**json.loads(lines[-1])))
        print(f"{arm}: {results[-1].fault or 'measured'}", file=sys.stderr)
    facts = {key: value for result in results for key, value in result.facts.items()}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print_table(results, args.batches)
    rows = targets(results, 2 * 32 * 32 / (16 * 112 * 112) if args.tiny else 1.0)
    if args.device == "GPU":
        for what, ratio, target in rows:
            print(f"{what:36} {ratio:6.2f}  target {target}  {'held' if ratio >= target else 'missed'}")
    if args.json:
        args.json.write_text(json.dumps({"facts": facts, "results": [asdict(r) for r in results], "targets": rows}))
    if all(result.fault for result in results):
        sys.exit(f"nothing was measured: {results[0].fault}")


if __name__ == "__main__":
    main()
