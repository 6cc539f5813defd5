"""How long `make report` takes, and how large its folder is, for a dataset of the size of Kinetics' validation split.

    python tests/benchmarks/bench_report.py [--videos 20000] [--classes 400]

The videos are made up: half of them train, half val, with frames of 128 x 171 in JPEG, most with two frames and some
with ten seconds.  The run has 20,000 lines of metrics, and an evaluation of the val half.  The command runs in a
process of its own, so its start counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]  # a script beside the package, run by path

import cv2
import numpy as np
import pandas as pd
import yaml
from make_report import write_evaluation, write_run
from make_store import make_ledger

from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.common.settings import to_plain
from pipeline.decoding.resample import steady_times
from pipeline.execution.plan import plan_shards
from pipeline.ledger.table import fill_ledger, ledger_path, write_ledgers
from pipeline.shards.encoding import Encoded, encode
from pipeline.shards.store import open_shard, outcomes_table
from pipeline.shards.writer import ShardWriter

LONG, SHORT = 150, 2  # stored frames
NUM_LONG = 32  # videos of each split, the first


def video_of(num_frames: int, settings: Preprocess) -> Encoded:
    """A pattern that moves, as large in JPEG as a photograph."""
    rng = np.random.default_rng(0)
    shape = (settings.height, settings.width + num_frames, 3)
    noise = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 1.5)
    picture = np.clip(128 + 45 / noise.std() * noise, 0, 255).astype(np.uint8)
    frames = np.stack([picture[:, first : first + settings.width] for first in range(num_frames)])
    return encode(frames, steady_times(np.arange(num_frames), 15.0), settings)


def make_half(settings: Preprocess, split: str, num_videos: int, names: list[str]) -> pd.DataFrame:
    """Shards of a split; returns its ledger."""
    table = make_ledger(num_videos, split)
    table["label_id"] = np.arange(num_videos) % len(names)
    table["label"] = [names[label] for label in table["label_id"]]
    encoded = {length: video_of(length, settings) for length in (LONG, SHORT)}
    rng = np.random.default_rng(1)
    written = []
    for task in plan_shards(table, settings, split):
        with ShardWriter(task.path, settings, split) as writer:
            for video in task.videos:
                length = LONG if int(video.video_id.split("_")[-2]) < NUM_LONG else SHORT
                source = int(rng.integers(150, 320))
                writer.add(
                    Outcome(video_id=video.video_id, status="ok", codec="h264", source_width=340, source_height=256,
                            source_fps=30.0, source_frames=source, source_bytes=2000 * source, num_frames=length,
                            fps=15.0),
                    encoded[length],
                )  # fmt: skip
        written.append(task.path)
    return fill_ledger(table, outcomes_table(map(open_shard, written)))


def make_inputs_of_report(folder: Path, num_videos: int, num_classes: int) -> Path:
    """A dataset, a run and an evaluation; returns the configuration."""
    settings = Preprocess(
        dataset="large", manifests=f"{folder}/manifests", store=f"{folder}/store", codec="jpeg", data_root=f"{folder}"
    )
    Path(settings.store).mkdir()
    names = [f"class number {number}" for number in range(num_classes)]
    halves = {split: make_half(settings, split, num_videos // 2, names) for split in ("train", "val")}
    write_ledgers({ledger_path(settings, split): table for split, table in halves.items()})
    config = folder / "large.yaml"
    config.write_text(yaml.safe_dump({"preprocess": to_plain(settings), "train": {"ckpt_path": f"{folder}/runs"}}))
    rng = np.random.default_rng(2)
    records: list[dict[str, object]] = [
        {"step": step, "epoch": 1 + step // 500, "train/loss": 6 * 0.9998**step + 0.2 * float(rng.random()),
         "train/clip_top1": step / 25_000, "train/lr": 0.1, "train/clips_per_s": 90.0, "train/data_wait": 0.01,
         "train/seconds": 1.0}
        for step in range(20_000)
    ]  # fmt: skip
    records += [
        {"step": step, "epoch": step // 500, "val/loss": 3.0, "val/video_top1": step / 30_000, "val/video_top5": 0.9}
        for step in range(500, 20_001, 500)
    ]
    run = write_run(folder / "runs" / "large" / "20260101-000000", config, records)
    labels = halves["val"]["label_id"].to_numpy()
    long = halves["val"]["num_frames"].to_numpy() == LONG  # these are wrong, so their clips are in the report
    wrong = long | (rng.random(len(labels)) < 0.3)
    predicted = np.where(wrong, (labels + rng.integers(1, num_classes, len(labels))) % num_classes, labels)
    write_evaluation(run, names, halves["val"]["video_id"].tolist(), labels.tolist(), predicted.tolist())
    return config


def main() -> None:
    """Make the dataset, and time the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=400)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = make_inputs_of_report(folder, args.videos, args.classes)
        command = [sys.executable, "-m", "train.report", "-c", str(config), "--output-dir", str(folder / "report")]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        files = [path for path in (folder / "report").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1e6
        print(f"  report of {args.videos:,} videos, {args.classes} classes  {seconds:.1f} s, {size:.1f} MB, "
              f"{len(files):,} files, {len(list((folder / 'report').rglob('*.mp4')))} clips")  # fmt: skip


if __name__ == "__main__":
    main()
