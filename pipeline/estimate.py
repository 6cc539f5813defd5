"""Estimate the disk space, time and memory that preprocessing will take on this machine.             (make estimate)

    python -m pipeline.estimate -c FILE

Decodes a few of the ledgers' videos as `preprocess` would, once for each way of storing them, and scales the result up
to all videos.  Writes nothing.  The exit code is 74 if the recipe does not fit on the store's disk.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import resource
import shutil
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.common import cli, recipe
from pipeline.common.errors import EXIT_IO, EXIT_OK, UserError
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.execution.plan import check_recipe
from pipeline.ledger.schema import WAITING_STATUSES
from pipeline.ledger.table import read_ledgers
from pipeline.shards.store import Store

log = logging.getLogger(__name__)

SAMPLED_VIDEOS = 32
PUBLISHED_FPS = 15.0


@dataclasses.dataclass(frozen=True)
class Cost:
    """The average cost of one video, stored in one way.

    Attributes:
        fps: stored frames per second, or `source`.
        codec: raw or jpeg.
        nbytes: stored bytes per video; bad videos count as 0.
        error: standard error of `nbytes`.
        seconds: seconds of one core per video.
        num_bad: how many of the measured videos cannot be stored.
    """

    fps: float | str
    codec: str
    nbytes: float
    error: float
    seconds: float
    num_bad: int


def sample(ledgers: dict[str, pd.DataFrame], settings: Preprocess) -> list[Path]:
    """A random sample of the videos on disk, of all splits; the same one each time.

    Raises:
        UserError: no video is on disk.
    """
    paths = sorted(str(path) for table in ledgers.values() for path in table["path"] if path)
    if not paths:
        raise UserError(f"No ledger has a video in {settings.data_root!r}. Run `make manifests` first.")
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(len(paths), size=min(SAMPLED_VIDEOS, len(paths)), replace=False)
    return [Path(settings.data_root) / paths[row] for row in sorted(chosen)]


def measure(paths: list[Path], settings: Preprocess) -> Cost:
    """Decode videos as the recipe says, one after the other; the frames are not kept."""
    sizes = []
    with Decoder(settings) as decoder:
        next(decoder.decode(paths[:1]))  # loads the libraries and warms the disk's cache
        began = time.perf_counter()
        for decoded in decoder.decode(paths):
            sizes.append(decoded.encoded.data.nbytes if decoded.encoded is not None else 0)
        seconds = time.perf_counter() - began
    error = float(np.std(sizes, ddof=1) / math.sqrt(len(sizes))) if len(sizes) > 1 else 0.0
    return Cost(settings.fps, settings.codec, float(np.mean(sizes)), error, seconds / len(sizes), sizes.count(0))


def ways(settings: Preprocess) -> list[Preprocess]:
    """The recipe itself, then raw and jpeg at its own, the published and the source's frame rate."""
    rates = dict.fromkeys((settings.fps, PUBLISHED_FPS, "source"))
    codecs = dict.fromkeys((settings.codec, "raw", "jpeg"))
    return [dataclasses.replace(settings, fps=fps, codec=codec) for fps in rates for codec in codecs]


def free_bytes(store: Path) -> int:
    """Free bytes of the disk where the store is or will be."""
    folder = store.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size(nbytes: float) -> str:
    """Bytes for people: `1.23TB`."""
    return tqdm.format_sizeof(nbytes, "B")


def duration(seconds: float) -> str:
    """Time for people, as exact as an estimate is: `1.5 h`.  (tqdm's would be `1:30:00`.)"""
    for unit, factor in (("h", 3600), ("min", 60)):
        if seconds >= factor:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds:.1f} s"


def table(costs: list[Cost], num_videos: int, num_files: int, jobs: int) -> list[str]:
    """One line for each way of storing; the recipe's own is first and marked."""
    lines = [f"{'':2}{'fps':>7} {'codec':6}{'stored':>11}{'':>9}{'time':>11}{'files':>8}"]
    for cost in costs:
        spread = f"+- {100 * cost.error / cost.nbytes:.0f} %" if cost.nbytes else ""
        time_needed = duration(cost.seconds * num_videos / jobs)
        mark = "* " if cost is costs[0] else "  "
        total = size(cost.nbytes * num_videos)
        lines.append(f"{mark}{cost.fps:>7} {cost.codec:6}{total:>11}{spread:>9}{time_needed:>11}{num_files:>8,}")
    return lines


def estimate(settings: Preprocess) -> int:
    """Measure, print, and compare with the free disk space; returns the exit code."""
    ledgers = read_ledgers(settings)
    check_recipe(Store(Path(settings.store)), settings)  # with another, all videos would have to be decoded again
    paths = sample(ledgers, settings)
    log.info("decoding %d videos for each of %d ways to store them", len(paths), len(ways(settings)))
    costs = [measure(paths, way) for way in ways(settings)]
    jobs = joblib.effective_n_jobs(settings.jobs)
    present = sum(int((rows["path"] != "").sum()) for rows in ledgers.values())
    pending = sum(int(rows["status"].isin(WAITING_STATUSES).sum()) for rows in ledgers.values())
    files = sum(math.ceil(len(rows) / settings.videos_per_shard) for rows in ledgers.values())
    print(f"{present:,} videos on disk, {len(paths)} measured, {costs[0].num_bad} of these bad; {jobs} jobs")
    print("\n".join(table(costs, present, files, jobs)))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"memory: at most {size(peak)} per decoder, {size(peak * jobs)} for {jobs}")
    needed, free = (costs[0].nbytes + 2 * costs[0].error) * pending, free_bytes(Path(settings.store))
    verdict = "fits" if needed <= free else "does not fit"
    print(f"still to write: at most {size(needed)}; free at {settings.store}: {size(free)}: {verdict}")
    if needed > free:
        log.error("error: preprocess.store: not enough disk space. Use another STORE=DIR, codec jpeg or a lower fps.")
        return EXIT_IO
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Estimate the cost of the configuration's dataset."""
    parser = cli.parser("pipeline.estimate", __doc__ or "", sections={"preprocess": Preprocess})
    _args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    cli.say_target("nothing")
    settings = recipe.load(document)
    if not Path(settings.data_root).is_dir():
        raise UserError(f"preprocess.data_root: {settings.data_root!r} is not a folder. Set it with DATA=DIR.")
    return estimate(settings)


if __name__ == "__main__":
    cli.run(main)
