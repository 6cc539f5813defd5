"""The loader at Kinetics' size: time and memory to the first batch, and over many.

    python tests/benchmarks/bench_loader_scale.py [--shards 5000] [--batches 10000]

Writes a ledger of 300,000 rows and 5,000 shards of 60 videos whose frames are holes in sparse files, then starts two
processes.  One makes the first batch.  The other goes on for 10,000 batches of 16 clips of 16 x 112 x 112; its
memory and open files must stay as they are after the first 2,000.
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
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from make_store import make_ledger  # noqa: E402

from pipeline import hdf5, ledger  # noqa: E402
from pipeline.encoding import encode  # noqa: E402
from pipeline.preprocess import plan  # noqa: E402
from pipeline.recipe import Preprocess  # noqa: E402
from pipeline.shard_task import Task  # noqa: E402
from pipeline.shards import Outcome, ShardWriter, read_outcomes  # noqa: E402

NUM_FRAMES, VIDEOS_PER_SHARD = 40, 60

START = """
import resource, sys, time
began = time.time() - float(sys.argv[1])
import model
from pathlib import Path
from pipeline.recipe import Preprocess
from train.config import Dataset, Loader, Map, Operation
from train.dataset import ClipBatches, iterate
from train.videos import read_videos

def memory_mib(kind):  # of this process: anonymous memory, not the page cache's pages that are mapped
    text = Path("/proc/self/status").read_text()
    return int(text.split(kind + ":")[1].split()[0]) // 1024

imported = time.perf_counter()
settings = Preprocess(dataset="bench", manifests=f"{sys.argv[2]}/manifests", store=f"{sys.argv[2]}/store",
                      videos_per_shard=60)
loader = Loader(Dataset(batch_size=16, seq=16, num_parallel_workers=2, num_clips=5),
                Map((Operation("VideoRandomCrop", size=(112, 112)),)))
batches = ClipBatches(read_videos(settings, "train"), loader, settings, seed=0, drop_remainder=True)
"""
FIRST = (
    START
    + """
next(iterate(batches, 0))
print(f"{time.perf_counter() - imported:.2f} {time.time() - float(sys.argv[1]):.2f} "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")
"""
)
MANY = (
    START
    + """
began, marks = time.perf_counter(), []
for number, batch in enumerate(iterate(batches, 0), start=1):
    if number in (100, 2000, int(sys.argv[3])):
        files = len(list(Path("/proc/self/fd").iterdir()))
        seconds = time.perf_counter() - began
        print(f"batch {number:6}: {memory_mib('RssAnon')} MiB of its own, {memory_mib('RssFile')} MiB of mapped files, "
              f"{files} open files, {number * 16 / seconds:,.0f} clips/s so far", flush=True)
    if number == int(sys.argv[3]):
        break
print(f"after closing: {len(list(Path('/proc/self/fd').iterdir()))} open files")
"""
)


class SparseWriter(ShardWriter):
    """Leaves holes where frames would be."""

    def _store(self, group: str, name: str, data: NDArray) -> int:
        return hdf5.reserve(self._file[group], name, data.shape, data.dtype)


def write(task: Task, settings: Preprocess) -> pd.DataFrame:
    """One shard; returns its outcomes."""
    encoded = encode(np.zeros((NUM_FRAMES, settings.height, settings.width, 3), np.uint8), settings)
    with SparseWriter(task.path, settings, "train") as writer:
        for video in task.videos:
            outcome = Outcome(video.video_id, "ok", num_frames=NUM_FRAMES, fps=15.0)
            writer.add_encoded(outcome, video.label_id, encoded)
    return read_outcomes(task.path)


def main() -> None:
    """Write the store, and report on both processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--batches", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Preprocess(
            dataset="bench", manifests=f"{folder}/manifests", store=f"{folder}/store", videos_per_shard=VIDEOS_PER_SHARD
        )
        Path(settings.store).mkdir()
        began = time.perf_counter()
        table = make_ledger(args.shards * VIDEOS_PER_SHARD, "train")
        tasks = plan(table, settings, "train")
        outcomes = joblib.Parallel(n_jobs=2)(joblib.delayed(write)(task, settings) for task in tasks)
        filled = ledger.fill(table, pd.concat(outcomes, ignore_index=True))
        ledger.write_table(ledger.ledger_path(settings, "train"), filled)
        print(f"{len(table):,} rows, {len(tasks):,} shards, written in {time.perf_counter() - began:.0f} s", flush=True)

        def child(program: str) -> str:
            command = [sys.executable, "-c", program, str(time.time()), folder, str(args.batches)]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

        seconds, whole, peak = child(FIRST).split()
        print(f"first batch: {seconds} s (target: under 3), {whole} s with starting Python and importing MindSpore")
        print(f"memory at its highest until then: {peak} MiB (target: under 500)")
        print(child(MANY))


if __name__ == "__main__":
    main()
