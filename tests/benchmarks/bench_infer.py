"""What `make infer` costs: a folder of videos against decoding and evaluation alone, and a long video with pictures.

    python tests/benchmarks/bench_infer.py [--videos 100] [--seconds 180] [--rounds 3] [--weights RUN] [--tiny]

The videos are those of the sample, decoded and scored by its network: first in one pass as infer does, then decoded
without the network, and the network without decoding.  Each part is in videos/s of the wall clock, without the start of
Python and the compilation of the graph, which infer pays once.  The last row is the whole command with its pictures, in
a process of its own, on a made video of 320 x 240 at 30 frames/s.  Without `--weights` the network is untrained, which
costs the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]  # a script beside the package, run by path

import train as _train  # noqa: F401  before numpy and mindspore

# isort: split
import mindspore as ms
import numpy as np
from make_videos import write_mp4

from pipeline.common.recipe import Preprocess
from pipeline.common.settings import Document
from pipeline.decoding.process import Decoder
from pipeline.sample_videos.dataset import make_sample
from train.evaluation.scoring import as_evaluated
from train.experiment.load import load_config
from train.experiment.sections import Config
from train.inference.decoded import DecodedVideo, decode_videos
from train.inference.drawing import Presentation
from train.inference.files import predict_files
from train.inference.inputs import Input, find_inputs
from train.inference.predict import VideoPredictor, in_batches
from train.network.build import build_network
from train.network.normalize import Normalize
from train.network.predictor import Predictor

CONFIG = str(ROOT / "train" / "configs" / "sample.yaml")


def network_of(config: Config) -> Predictor:
    """The configuration's network, untrained."""
    transforms = config.data_loader.eval.transforms(config.preprocess.frame_size)
    predictor = Predictor(build_network(config.model), Normalize(transforms.mean, transforms.std))
    return predictor.set_train(False)


def seconds_of(run: Callable[[], object]) -> float:
    """The wall clock of a call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def decode(inputs: list[Input], settings: Preprocess) -> list[DecodedVideo]:
    """Decode videos as infer does, without the network; returns those that are whole."""
    with Decoder(replace(settings, data_root="")) as decoder:
        return [video for video in decode_videos(decoder, inputs) if isinstance(video, DecodedVideo)]


def bench_folder(folder: Path, num_videos: int, rounds: int, config: Config) -> None:
    """A folder with infer, and its two halves alone."""
    make_sample(folder, {"train": 0, "val": num_videos, "test": 0})
    inputs = find_inputs(str(folder / "val"), folder / "out")
    network, settings = network_of(config), config.preprocess
    predictor = VideoPredictor(network, config, len(inputs))
    names = [f"class {number}" for number in range(config.model.classes)]
    (frames,) = decode(inputs[:1], settings)
    options, crop = config.data_loader.eval.dataset, config.data_loader.eval.transforms(settings.frame_size).crop
    clips = np.zeros((len(inputs) * options.num_clips, options.seq, *crop, 3), np.uint8)
    predictor.scores([predictor.views(frames.frames, frames.timeline)])  # compiles
    in_batches(network, clips[: options.batch_size], options.batch_size)
    rows: dict[str, list[float]] = {"infer": [], "decoding alone": [], "eval alone": []}
    for _ in range(rounds):
        arms = {
            "infer": lambda: list(predict_files(inputs, predictor, settings, Presentation(names, 5, None))),
            "decoding alone": lambda: decode(inputs, settings),
            "eval alone": lambda: in_batches(network, clips, options.batch_size),
        }
        for name, run in arms.items():
            rows[name].append(len(inputs) / seconds_of(run))
    speeds = {name: statistics.median(values) for name, values in rows.items()}
    for name, values in rows.items():
        print(f"  {name:16}  {speeds[name]:8.1f} videos/s ({min(values):.1f}-{max(values):.1f})")
    in_turn = 1 / (1 / speeds["decoding alone"] + 1 / speeds["eval alone"])
    slower = min(speeds["decoding alone"], speeds["eval alone"])
    print(f"  infer / one after the other  {speeds['infer'] / in_turn:.3f}   (target: 0.9)")
    print(f"  infer / the slower of the two  {speeds['infer'] / slower:.3f}   (moonshot: 0.9)", flush=True)


def bench_long(folder: Path, seconds: int, weights: str, config: Config) -> None:
    """The whole command with pictures on a long video."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    path = write_mp4(
        folder / "long.mp4", fps=30, size=(240, 320), frames=(np.roll(scene, k, 1) for k in range(30 * seconds))
    )
    if not weights:
        weights = str(folder / "untrained.ckpt")
        ms.save_checkpoint(build_network(config.model), weights)
    words = ["-m", "train.infer", "-c", CONFIG, f"--infer.pretrained_model={weights}", f"--infer.image_path={path}"]
    for flags in ([], ["--window=1"]):
        out = folder / f"out{len(flags)}"
        command = [sys.executable, *words, f"--infer.output_dir={out}", *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        spent = seconds_of(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))  # noqa: B023
        megabytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
        name = " ".join(["infer", *flags])
        print(f"  {name:16}  {spent:.1f} s for a video of {seconds} s, pictures of {megabytes:.2f} MB", flush=True)
    print("  (target: under 10 s and 4 MB)")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100, help="videos in the folder")
    parser.add_argument("--seconds", type=int, default=180, help="length of the long video")
    parser.add_argument("--rounds", type=int, default=3, help="passes over the folder")
    parser.add_argument("--weights", default="", help="weights or run folder of the sample's network")
    parser.add_argument("--tiny", action="store_true", help="few and short videos, and no graph is compiled")
    args = parser.parse_args()
    if args.tiny:
        args.videos, args.seconds, args.rounds = 4, 2, 1
    ms.set_context(mode=ms.PYNATIVE_MODE if args.tiny else ms.GRAPH_MODE)
    config = as_evaluated(load_config(Document(CONFIG)))
    with tempfile.TemporaryDirectory() as folder:
        bench_folder(Path(folder, "sample"), args.videos, args.rounds, config)
        bench_long(Path(folder), args.seconds, args.weights, config)


if __name__ == "__main__":
    main()
