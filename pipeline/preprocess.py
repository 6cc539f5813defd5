"""Ledgers to shards: every video decoded once.                                        (make preprocess)

    python -m pipeline.preprocess -c FILE [--dry-run]

Reads `<manifests>/<dataset>/<split>.csv`, writes `<store>/<split>-*.h5` and then fills the ledgers in from the shards.
One joblib task writes one shard under a temporary name and publishes it whole, so a run can be stopped at any instant
and gone on with: finished shards are skipped, and the bytes do not depend on the number of jobs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline import cli, ledger, recipe, shards
from pipeline.decode import DecodeError, decode_video
from pipeline.recipe import SPLITS, Preprocess
from pipeline.schema import BAD_STATUSES
from pipeline.settings import UserError
from pipeline.shards import Outcome, ShardReader, ShardWriter

log = logging.getLogger(__name__)


class LockedError(UserError):
    """Another run is writing to the same store."""

    exit_code = cli.EXIT_LOCKED


@dataclass(frozen=True)
class Planned:
    """One row of a ledger, as far as its shard needs to know it."""

    video_id: str
    label_id: int
    path: str  # relative to data_root; empty when the file is missing


@dataclass(frozen=True)
class Task:
    """One shard to be written."""

    path: Path
    split: str
    videos: tuple[Planned, ...]


def plan(table: pd.DataFrame, settings: Preprocess, split: str) -> list[Task]:
    """Which videos each shard of a split holds.

    A permutation of all rows, seeded, spreads the classes over the shards; it does not look at what is on disk, so a
    video that is downloaded later goes where it would always have gone.
    """
    order = np.random.default_rng([settings.seed, SPLITS.index(split)]).permutation(len(table))
    rows = [
        Planned(str(video_id), int(label_id), str(path))
        for video_id, label_id, path in zip(table["video_id"], table["label_id"], table["path"], strict=True)
    ]
    size = settings.videos_per_shard
    count = -(-len(rows) // size)
    return [
        Task(
            path=Path(settings.store) / shards.shard_name(split, number, count),
            split=split,
            videos=tuple(rows[row] for row in order[number * size : (number + 1) * size]),
        )
        for number in range(count)
    ]


def is_finished(task: Task, settings: Preprocess) -> bool:
    """Whether a shard is there, whole, of this recipe and plan, and lacks no video that is on disk now.

    Raises:
        UserError: it is of another recipe; nothing is overwritten.
    """
    if not task.path.is_file():
        return False
    attributes = shards.read_attributes(task.path)
    if attributes["recipe_sha256"] != settings.fingerprint():
        raise UserError(
            f"{task.path}: this store has another recipe ({recipe.differences(settings.to_json(), attributes['recipe'])})"
            "; use its settings, or another STORE=DIR"
        )
    outcomes = shards.read_outcomes(task.path)
    if outcomes["video_id"].tolist() != [video.video_id for video in task.videos]:
        return False
    missing = set(outcomes.loc[outcomes["status"] == "missing", "video_id"])
    return not any(video.path and video.video_id in missing for video in task.videos)


def write_shard(task: Task, settings: Preprocess) -> tuple[int, int]:
    """Decode the videos of a task into its shard; returns stored frames and bytes."""
    frames = size = 0
    with ShardWriter(task.path, settings, task.split) as writer:
        for video in task.videos:
            outcome, stored = decode(video, settings)
            writer.add(outcome, video.label_id, stored)
            if stored is not None:
                frames += len(stored)
                size += stored.nbytes
    return frames, size


def decode(video: Planned, settings: Preprocess) -> tuple[Outcome, np.ndarray | None]:
    """What becomes of one video, and its frames (T, height, width, 3) when that is `ok`."""
    path = Path(settings.data_root) / video.path
    if not video.path or not path.exists():
        return Outcome(video.video_id, "missing"), None
    try:
        done = decode_video(path, settings)
    except DecodeError as error:
        return Outcome(video.video_id, error.status, error.reason), None
    facts = {name: getattr(done, name) for name in Outcome._fields if hasattr(done, name)}
    return Outcome(video_id=video.video_id, status="ok", num_frames=len(done.frames), **facts), done.frames


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the store for one run.

    Raises:
        LockedError: another run holds it.
    """
    store.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(str(store / ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LockedError(f"{store}: another run is writing here; wait for it or use another STORE=DIR") from None
    try:
        for leftover in store.glob(".*.h5.tmp"):  # of a run that was killed: the lock is ours, so nobody writes it
            leftover.unlink()
        yield
    finally:
        lock.release()


def read_ledgers(settings: Preprocess) -> dict[str, pd.DataFrame]:
    """The ledgers there are, by split.

    Raises:
        UserError: there is none.
    """
    paths = {split: ledger.ledger_path(settings, split) for split in SPLITS}
    found = {split: ledger.read(path) for split, path in paths.items() if path.is_file()}
    if not found:
        raise UserError(f"{paths['train'].parent}: no ledgers; run `make manifests` first")
    return found


def run(settings: Preprocess) -> int:
    """Write every shard that is not finished, fill the ledgers in, and print a summary; returns an exit code."""
    ledgers = read_ledgers(settings)
    if not Path(settings.data_root).is_dir():
        raise UserError(f"preprocess.data_root: {settings.data_root!r} is not a folder; give it with DATA=DIR")
    began = time.perf_counter()
    with locked(Path(settings.store)):
        tasks = [task for split, table in ledgers.items() for task in plan(table, settings, split)]
        todo = [task for task in tasks if not is_finished(task, settings)]
        log.info("%d shards, %d finished before", len(tasks), len(tasks) - len(todo))
        frames = size = 0
        parallel = joblib.Parallel(n_jobs=min(settings.jobs, len(todo)) or 1, return_as="generator_unordered")
        results = parallel(joblib.delayed(write_shard)(task, settings) for task in todo)
        for stored, nbytes in tqdm(results, total=len(todo), unit="shard", disable=None):
            frames, size = frames + stored, size + nbytes
        statuses: Counter[str] = Counter()
        for split, table in ledgers.items():
            written = [shards.read_outcomes(task.path) for task in tasks if task.split == split]
            filled = ledger.fill(table, pd.concat(written, ignore_index=True)) if written else table
            ledger.write(ledger.ledger_path(settings, split), filled)
            statuses.update(filled["status"])
    seconds = time.perf_counter() - began
    counts = ", ".join(f"{status} {count:,}" for status, count in statuses.most_common())
    print(
        f"{counts}; {len(todo)} of {len(tasks)} shards written: {frames:,} frames, {size / 1e9:.2f} GB, "
        f"{frames / seconds:,.0f} frames/s -> {settings.store}"
    )
    bad = sum(statuses[status] for status in BAD_STATUSES)
    present = sum(statuses.values()) - statuses["missing"]
    if present and bad / present > settings.max_bad_fraction:
        log.error(
            "error: %d of %d videos are bad, more than preprocess.max_bad_fraction %g; the rest is stored",
            bad, present, settings.max_bad_fraction,
        )  # fmt: skip
        return cli.EXIT_TOO_MANY_BAD
    return cli.EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Preprocess what the configuration names."""
    made = cli.parser(__doc__ or "", sections={"preprocess": Preprocess})
    made.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    args, document = cli.parse(made, argv)
    cli.set_up_logging()
    settings = recipe.load(document)
    if args.dry_run:
        for split, table in read_ledgers(settings).items():
            todo = [task for task in plan(table, settings, split) if not is_finished(task, settings)]
            print(f"{split}: {len(table):,} videos, {len(todo)} shards to write")
            for task in todo[:5]:
                print(f"  {task.path}: {len(task.videos)} videos, first {task.videos[0].video_id}")
        return cli.EXIT_OK
    return run(settings)


if __name__ == "__main__":
    cli.run(main)
