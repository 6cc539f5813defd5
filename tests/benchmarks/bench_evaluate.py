"""What evaluation costs beside the network: choosing views, writing results, and the whole over the bare forward pass.

    python tests/benchmarks/bench_evaluate.py [--videos 20000] [--rounds 7] [--tiny]

Views and results are of made-up videos, in seconds of the wall clock and of CPU time.  The last row evaluates
R(2+1)D-18 on shards, and between the rounds runs the same network on one batch that stays in memory; `--tiny`
takes small videos and a narrow network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]  # a script beside the package, run by path

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
import mindspore as ms
import numpy as np
from make_store import make_split

from model.r2plus1d import r2plus1d_18
from pipeline.common.recipe import Preprocess
from train.data.timeline import Timeline
from train.evaluation.metrics import Scores
from train.evaluation.plan import Count, make_plan
from train.evaluation.protocols import PROTOCOLS
from train.evaluation.results import results_of, write_files
from train.evaluation.scoring import Evaluation, score
from train.experiment.sections import Config, DataLoader, Dataset, Eval, Loader, Model
from train.experiment.transforms import standard_map
from train.network.normalize import Normalize
from train.network.predictor import Predictor
from train.pictures.confusion import draw_confusion

NAMES = ("torchvision-clip", "torchvision-video", "views-10x3")
CLASSES = 400


def spent_in(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock and of CPU time that a call took."""
    began, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began, time.process_time() - cpu


def timed(what: str, run: Callable[[], object]) -> None:
    """Print how long a call took."""
    wall, cpu = spent_in(run)
    print(f"  {what}  {wall:.2f} s, CPU {cpu:.2f} s", flush=True)


def choose_views(num_videos: int) -> None:
    """Plan the views of three protocols."""
    rng = np.random.default_rng(0)
    frames, rates = rng.integers(60, 300, num_videos), rng.choice([24, 25, 30000 / 1001, 30], num_videos)
    steps = np.maximum(rates / 15, 1)
    timeline = Timeline(frames, rates, np.ceil(frames / steps).astype(np.int64), rates / steps, rates < 0)
    make_plan({name: PROTOCOLS[name] for name in NAMES}, Config(), timeline, np.arange(num_videos))


def write_results(num_videos: int, folder: Path) -> None:
    """Write the files of one protocol."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, num_videos).astype(np.int32)
    scores = Scores(num_videos, CLASSES, labels=labels)
    logits = rng.normal(size=(num_videos, CLASSES)).astype(np.float32)
    logits[np.arange(num_videos), labels] += 3
    scores.add(logits, labels, np.arange(num_videos))
    videos = SimpleNamespace(
        video_ids=[f"video_{number:06d}" for number in range(num_videos)], label_ids=labels, num_listed=num_videos,
    )  # fmt: skip
    plan = SimpleNamespace(counts=[Count("one-clip", PROTOCOLS["one-clip"], 0)])
    source = SimpleNamespace(videos=videos, plan=plan, config=Config())
    names = [f"class {number}" for number in range(CLASSES)]

    def write() -> None:
        (result,) = results_of(source, [scores])
        write_files(folder, source, result, names, {}, {}, partial(draw_confusion, title="benchmark"))

    timed(f"results of {num_videos:,} videos, {CLASSES} classes", write)


def evaluate(folder: Path, rounds: int, tiny: bool) -> None:
    """Evaluate, and run the bare network in turns."""
    height, width, crop, batch = (16, 20, 16, 2) if tiny else (128, 171, 112, 4)
    recipe = Preprocess(
        dataset="tiny", data_root=f"{folder}/d", manifests=f"{folder}/m", store=f"{folder}/s", height=height,
        width=width, videos_per_shard=4,
    )  # fmt: skip
    make_split(recipe, "val", 4, length=18)
    dataset = Dataset(split="val", seq_mode="uniform", shuffle=False, batch_size=batch)
    config = Config(
        model=Model(num_classes=CLASSES), eval=Eval(protocols=("torchvision-video",)), preprocess=recipe,
        data_loader=DataLoader(
            train=Loader(map=standard_map((height, width), "none")),
            eval=Loader(dataset, standard_map((height, width), "centre", (crop, crop))),
        ),
    )  # fmt: skip
    ms.set_context(mode=ms.PYNATIVE_MODE if tiny else ms.GRAPH_MODE)
    narrow = {"stage_channels": (4, 4, 4, 4)} if tiny else {}
    transforms = config.data_loader.eval.transforms(recipe.frame_size)
    predictor = Predictor(r2plus1d_18(num_classes=CLASSES, **narrow), Normalize(transforms.mean, transforms.std))
    predictor.set_train(False)
    source = Evaluation(config)
    resident = ms.Tensor(np.zeros((batch, 16, crop, crop, 3), np.uint8))
    predictor(resident).asnumpy()
    calls = {
        "evaluation": lambda: score(predictor, source),
        "bare": lambda: [predictor(resident).asnumpy() for _ in range(source.num_batches)],
    }
    wall, cpu = [], []
    for number in range(rounds):
        spent = {name: spent_in(calls[name]) for name in sorted(calls, reverse=number % 2 == 0)}
        wall.append(spent["bare"][0] / spent["evaluation"][0])
        cpu.append(spent["bare"][1] / spent["evaluation"][1])
    for what, ratios in (("clips/s", wall), ("clips per second of CPU time", cpu)):
        found = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        print(f"  evaluation / bare forward, {what}  {found}")


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20_000, help="videos whose views are chosen and scores written")
    parser.add_argument("--rounds", type=int, default=7, help="evaluations, each beside bare forward passes")
    parser.add_argument("--tiny", action="store_true", help="small videos and a narrow network")
    args = parser.parse_args()
    timed(f"views of {args.videos:,} videos", lambda: choose_views(args.videos))
    with tempfile.TemporaryDirectory() as folder:
        write_results(args.videos, Path(folder, "results"))
        evaluate(Path(folder), args.rounds, args.tiny)


if __name__ == "__main__":
    main()
