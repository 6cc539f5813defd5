"""The loader at Kinetics' size: time and memory to the first batch, and over many.

    python tests/benchmarks/bench_loader_scale.py [--shards 5000] [--batches 10000]

Writes a ledger of 300,000 rows and 5,000 shards of 60 videos whose frames are holes in sparse files, and makes the
first batch in a fresh process.  Another process makes 10,000 batches of 16 clips of 16 x 112 x 112 out of 300 shards
of 8 videos, more than are kept mapped; its memory and open files must stay as they are after the first 2,000.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from make_store import make_ledger  # noqa: E402

from pipeline.common.outcome import Outcome  # noqa: E402
from pipeline.common.recipe import Preprocess  # noqa: E402
from pipeline.common.tables import write_table  # noqa: E402
from pipeline.decoding.resample import steady_times  # noqa: E402
from pipeline.execution.plan import Task, plan_shards  # noqa: E402
from pipeline.ledger.table import fill_ledger, ledger_path  # noqa: E402
from pipeline.shards.encoding import encode  # noqa: E402
from pipeline.shards.libhdf5 import reserve
from pipeline.shards.store import open_shard, outcomes_table  # noqa: E402
from pipeline.shards.writer import ShardWriter

NUM_FRAMES = 20

# Each program is given the time it was started at, the folder, videos in a shard, clips a video, and batches to make.
START = """
import resource, sys, time
import model
from pathlib import Path
from pipeline.common.recipe import Preprocess
from train.experiment.sections import Dataset, Loader
from train.experiment.transforms import standard_map
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate
from train.data.videos import read_videos

def mib(kind):
    return int(Path("/proc/self/status").read_text().split(kind + ":")[1].split()[0]) // 1024

started, folder = float(sys.argv[1]), sys.argv[2]
videos_per_shard, num_clips, last = map(int, sys.argv[3:])
imported, imported_mib = time.time(), mib("VmRSS")
settings = Preprocess(dataset="bench", manifests=f"{folder}/manifests", store=f"{folder}/store",
                      videos_per_shard=videos_per_shard)
loader = Loader(Dataset(batch_size=16, seq=16, num_parallel_workers=2, num_clips=num_clips),
                standard_map(settings.frame_size, "random"))
batches = ClipBatches(read_videos(settings, "train"), loader, settings, seed=0, drop_remainder=True)
"""
FIRST = START + """
next(iterate(batches, 0))
now = time.time()
print(f"first batch: {now - imported:.2f} s (target: under 3), {now - started:.2f} s with importing MindSpore")
print(f"  memory at its highest {mib('VmHWM')} MiB (target: under 500), {imported_mib} MiB of it by the imports; now "
      f"{mib('RssAnon')} MiB of its own and {mib('RssFile')} MiB of mapped libraries and shards")
"""  # fmt: skip
MANY = START + """
for number, batch in enumerate(iterate(batches, 0), start=1):
    if number == 1:
        began = time.time()
    if number in (100, 2000, last // 2, last):
        print(f"batch {number:6}: {mib('RssAnon')} MiB of its own, {mib('RssFile')} MiB of files that are mapped, "
              f"{len(list(Path('/proc/self/fd').iterdir()))} open files, "
              f"{number * 16 / (time.time() - began):,.0f} clips/s so far")
    if number == last:
        break
"""  # fmt: skip


class SparseWriter(ShardWriter):
    """Leaves holes where frames would be."""

    def _store(self, group: str, name: str, data: NDArray) -> int:
        return reserve(self._file[group], name, data.shape, data.dtype)


def write(task: Task, settings: Preprocess) -> pd.DataFrame:
    """One shard; returns its outcomes."""
    frames = np.zeros((NUM_FRAMES, settings.height, settings.width, 3), np.uint8)
    encoded = encode(frames, steady_times(np.arange(NUM_FRAMES), 15.0), settings)
    with SparseWriter(task.path, settings, "train") as writer:
        for video in task.videos:
            outcome = Outcome(video_id=video.video_id, status="ok", num_frames=NUM_FRAMES, fps=15.0)
            writer.add(outcome, encoded)
    return outcomes_table([open_shard(task.path)])


def write_store(folder: str, num_shards: int, videos_per_shard: int) -> None:
    """Shards and their ledger."""
    settings = Preprocess(
        dataset="bench", manifests=f"{folder}/manifests", store=f"{folder}/store", videos_per_shard=videos_per_shard
    )
    Path(settings.store).mkdir()
    began = time.perf_counter()
    table = make_ledger(num_shards * videos_per_shard, "train")
    tasks = plan_shards(table, settings, "train")
    outcomes = joblib.Parallel(n_jobs=2)(joblib.delayed(write)(task, settings) for task in tasks)
    filled = fill_ledger(table, pd.concat(outcomes, ignore_index=True))
    write_table(ledger_path(settings, "train"), filled)
    print(f"{len(table):,} rows, {len(tasks):,} shards, written in {time.perf_counter() - began:.0f} s", flush=True)


def run(program: str, folder: str, *numbers: int) -> None:
    """Run a program in a fresh process, which prints what it finds."""
    command = [sys.executable, "-c", program, str(time.time()), folder, *map(str, numbers)]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> None:
    """Write the stores, and have both programs report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--batches", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_store(folder, args.shards, 60)
        for _ in range(3):
            run(FIRST, folder, 60, 5, 1)
    with tempfile.TemporaryDirectory() as folder:
        write_store(folder, 300, 8)
        run(MANY, folder, 8, 70, args.batches)


if __name__ == "__main__":
    main()
