"""What ledgers cost: build, rebuild and check at Kinetics-400's size, and how that grows with rows.

    python tests/benchmarks/bench_manifests.py [--rows 30000 306245 650000] [--own 100000] [--shards] [--folder DIR]

Writes label files of the real splits' proportions and one empty file for 98 of 100 rows into a temporary folder,
runs the commands as a user would, each in a process of its own, and removes the folder.  Seconds are the wall
clock's (start-up of Python included), beside those of CPU time, which other work on the machine does not
inflate as much; MiB is the process's peak.  `--shards` also rebuilds from one-frame shards.  `--own` makes so many
empty files in 400 class folders without a label file, and lets train/configs/own.yaml name and divide them.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # a script beside the package, run by path

from pipeline.common.outcome import Outcome  # noqa: E402
from pipeline.common.recipe import Preprocess  # noqa: E402
from pipeline.common.video_id import video_ids  # noqa: E402
from pipeline.labels.class_ids import KINETICS400, read_class_list  # noqa: E402
from pipeline.ledger.table import read_ledger  # noqa: E402
from pipeline.shards.encoding import encode  # noqa: E402
from pipeline.shards.format import shard_name  # noqa: E402
from pipeline.shards.writer import ShardWriter  # noqa: E402

KINETICS400_ROWS = {"train": 246_534, "val": 19_906, "test": 39_805}
ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"))
ON_DISK = 0.98
OWN_CLASSES = 400


def make_split(root: Path, split: str, num_rows: int, rng: np.random.Generator) -> int:
    """Write a split's label file and its videos, empty files in a flat folder; returns how many videos."""
    letters = ALPHABET[rng.integers(0, 64, (num_rows, 11))]
    ids = letters.view("U11").ravel().tolist()
    start = rng.integers(0, 600, num_rows).tolist()
    end = [first + 10 for first in start]
    labels = rng.choice(read_class_list(KINETICS400), num_rows).tolist()
    with (root / f"kinetics-400_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if split == "test":
            writer.writerow(["youtube_id", "time_start", "time_end", "split"])
            writer.writerows(zip(ids, start, end, [split] * num_rows, strict=True))
        else:
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            writer.writerows(zip(labels, ids, start, end, [split] * num_rows, [0] * num_rows, strict=True))
    (root / split).mkdir()
    names = video_ids(ids, start, end)
    num_files = int(num_rows * ON_DISK)
    for name in names[:num_files]:
        os.close(os.open(f"{root}/{split}/{name}.mp4", os.O_CREAT | os.O_WRONLY))
    return num_files


def make_shards(folder: Path, settings: Preprocess) -> int:
    """Store one 1x1 frame of each pending video, 64 a shard; returns the number of shards."""
    frame = np.zeros((1, settings.height, settings.width, 3), np.uint8)
    Path(settings.store).mkdir()
    total = 0
    for split in KINETICS400_ROWS:
        ledger = read_ledger(folder / "ledgers" / settings.dataset / f"{split}.csv")
        ids = ledger.loc[ledger["status"] == "pending", "video_id"].tolist()
        count = -(-len(ids) // settings.videos_per_shard)
        for number in range(count):
            path = Path(settings.store) / shard_name(split, number, count)
            with ShardWriter(path, settings, split) as writer:
                for video_id in ids[number::count]:
                    outcome = Outcome(
                        video_id=video_id, status="ok", codec="h264", source_width=340, source_height=256,
                        source_fps=30.0, source_frames=300, source_bytes=1, num_frames=1, fps=15.0,
                    )  # fmt: skip
                    writer.add(outcome, encode(frame, np.zeros(1, np.float32), settings))
        total += count
    return total


def measure(title: str, folder: Path, *flags: str, config: Path | None = None) -> float:
    """Run `python -m pipeline.manifests` on `folder`, print what it took, and return its seconds of CPU time."""
    config = config or folder / "bench.yaml"
    command = [sys.executable, "-m", "pipeline.manifests", "-c", str(config), *flags]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit {code}\n{said}")
    cpu = usage.ru_utime + usage.ru_stime
    print(f"  {title:<34} {seconds:6.2f} s  {cpu:6.2f} s CPU  {usage.ru_maxrss / 1024:6.0f} MiB", flush=True)
    return cpu


def run(num_rows: int, parent: Path, with_shards: bool) -> None:
    """All the measurements of one size."""
    folder = Path(tempfile.mkdtemp(prefix="bench-manifests-", dir=parent))
    try:
        (folder / "videos").mkdir()
        settings = Preprocess(
            dataset="kinetics400", data_root=str(folder / "videos"), manifests=str(folder / "ledgers"),
            store=str(folder / "shards"), height=1, width=1,
        )  # fmt: skip
        lines = "".join(
            f"  {key}: {getattr(settings, key)}\n" for key in ("dataset", "data_root", "manifests", "store")
        )
        (folder / "bench.yaml").write_text(f"preprocess:\n{lines}  height: 1\n  width: 1\n")
        rng = np.random.default_rng(0)
        share = num_rows / sum(KINETICS400_ROWS.values())
        sizes = {split: round(rows * share) for split, rows in KINETICS400_ROWS.items()}
        files = sum(make_split(folder / "videos", split, rows, rng) for split, rows in sizes.items())
        print(f"{sum(sizes.values()):,} rows, {files:,} files:", flush=True)
        took = [measure("build (no ledgers yet)", folder), measure("rebuild (ledgers there)", folder)]
        took.append(measure("check", folder, "--check"))
        if with_shards:
            print(f"  {make_shards(folder, settings):,} shards:", flush=True)
            took.append(measure("rebuild from CSVs and shards", folder))
            took.append(measure("rebuild, every row filled in", folder))
            took.append(measure("check, every row filled in", folder, "--check"))
        per_row = ", ".join(f"{1e6 * seconds / sum(sizes.values()):.1f}" for seconds in took)
        print(f"  microseconds of CPU time a row: {per_row}", flush=True)
    finally:
        shutil.rmtree(folder)


def run_own(num_files: int, parent: Path) -> None:
    """The measurements of own videos in class folders."""
    folder = Path(tempfile.mkdtemp(prefix="bench-manifests-", dir=parent))
    try:
        for number in range(OWN_CLASSES):
            (folder / "videos" / f"class {number:03d}").mkdir(parents=True)
        for number in range(num_files):
            path = f"{folder}/videos/class {number % OWN_CLASSES:03d}/video {number // OWN_CLASSES:04d}.mp4"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        print(f"{num_files:,} own videos in {OWN_CLASSES} class folders:", flush=True)
        flags = [f"--preprocess.data_root={folder}/videos", f"--preprocess.manifests={folder}/ledgers"]
        for title in ("build (no ledgers yet)", "rebuild (ledgers there)"):
            measure(title, folder, *flags, config=ROOT / "train" / "configs" / "own.yaml")
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure each size in turn."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=int, nargs="+", default=[30_000, 306_245, 650_000])
    made.add_argument("--own", type=int, default=100_000, help="own videos in class folders (default %(default)s)")
    made.add_argument("--shards", action="store_true", help="also rebuild from shards (half a minute more at 306,245)")
    made.add_argument("--folder", type=Path, default=None, help="where to make the files (default: the system's)")
    args = made.parse_args()
    for num_rows in args.rows:
        run(num_rows, args.folder, args.shards)
    run_own(args.own, args.folder)


if __name__ == "__main__":
    main()
