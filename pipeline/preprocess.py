"""Ledgers to shards: every video decoded once.                                        (make preprocess)

    python -m pipeline.preprocess -c FILE [--dry-run]

Reads `<manifests>/<dataset>/<split>.csv`, writes `<store>/<split>-*.h5` and then fills the ledgers in from the shards.
One joblib task writes one shard under a temporary name and publishes it whole, so a run can be stopped at any instant
and gone on with: finished shards are skipped, and the bytes do not depend on the number of jobs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import filelock
import joblib
import pandas as pd
from tqdm import tqdm

from pipeline import cli, ledger, recipe, shards
from pipeline.isolate import Decoder, Stopped
from pipeline.recipe import SPLITS, Preprocess
from pipeline.schema import BAD_STATUSES
from pipeline.settings import UserError
from pipeline.shard_task import Task, check_recipe, is_finished, plan, write_shard
from pipeline.shards import Outcome

__all__ = ["main", "plan", "run"]

_SHOWN_REASONS = 20
_SPARE_BYTES = 64 << 20  # for each shard being written
_STOP_S = 10  # that tasks have to drop their temporary files

log = logging.getLogger(__name__)


class LockedError(UserError):
    """Another run is writing to the same store."""

    exit_code = cli.EXIT_LOCKED


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the store for one run.

    Raises:
        LockedError: another run holds it.
        UserError: no folder can be there.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"preprocess.store: {store}: {error.strerror}; give a folder with STORE=DIR") from None
    lock = filelock.FileLock(str(store / ".lock"))
    owner = store / ".lock.owner"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another run"
        raise LockedError(f"{store}: {who} is writing here; wait for it or use another STORE=DIR") from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        remove_temporary(store)  # of a run that was killed: the lock is ours, so nobody writes it
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def remove_temporary(store: Path) -> None:
    """Delete unfinished shards."""
    for leftover in store.glob(".*.h5.tmp"):
        leftover.unlink(missing_ok=True)


def remove_unfinished_ledgers(settings: Preprocess) -> None:
    """Delete what a killed run left of a ledger; the file's name says which process wrote it."""
    for leftover in ledger.ledger_path(settings, SPLITS[0]).parent.glob(".*.csv.*.tmp"):
        if not Path("/proc", leftover.name.split(".")[-2]).exists():
            leftover.unlink(missing_ok=True)


class Run:
    """The shards of one run being written: its decoders, its progress and its end.

    Tasks run in threads, for all heavy work is done in the decoders, which are processes of their own; so nothing but
    a decoder can die.  Leaving the context with an exception stops the decoders and waits for the tasks to drop what
    they were writing.

    Args:
        settings: the recipe.
        num_videos: in the shards to write.
        jobs: tasks at a time.

    Attributes:
        frames: stored so far.
        videos: through so far.
    """

    def __init__(self, settings: Preprocess, num_videos: int, jobs: int) -> None:
        self.frames = self.videos = 0
        self._settings = settings
        self._idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        self._decoders: list[Decoder] = []
        # With a decoder for every core each keeps to its own: pictures stay in one core's cache on their way from
        # FFmpeg's thread to ours (a tenth less CPU, a quarter more videos/s).  With fewer, cores would crowd unasked.
        cores = sorted(os.sched_getaffinity(0))
        self._cores = cores if jobs >= len(cores) else [None]
        self._changed = threading.Condition()
        self._running = self._bad = self._finished_bytes = self._finished_videos = 0
        self._stopped = False
        self._bar = tqdm(total=num_videos, unit="video", smoothing=0.05, disable=None)

    def write(self, task: Task) -> None:
        """One joblib task."""
        with self._changed:
            if self._stopped:
                return
            self._running += 1
        try:
            self._check_space(task)
            decoder = self._decoder()
            write_shard(task, self._settings, decoder, self._done)
            self._idle.put(decoder)
            with self._changed:
                self._finished_bytes += task.path.stat().st_size
                self._finished_videos += len(task.videos)
        except Stopped:
            pass
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            if kind is not None:
                for decoder in self._decoders:
                    decoder.stop()
            self._changed.wait_for(lambda: not self._running, timeout=_STOP_S)
        for decoder in self._decoders:
            decoder.close()
        self._bar.close()

    def _decoder(self) -> Decoder:
        """An idle decoder, or a new one."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._changed:
            decoder = Decoder(self._settings, self._cores[len(self._decoders) % len(self._cores)])
            self._decoders.append(decoder)
            if self._stopped:
                decoder.stop()
        return decoder

    def _check_space(self, task: Task) -> None:
        """Stop while every shard that is being written can still be finished.

        Raises:
            OSError: the disk would be full.
        """
        with self._changed:
            mean = self._finished_bytes / max(1, self._finished_videos)
            needed = int((1.5 * mean * len(task.videos) + _SPARE_BYTES) * self._running)
        free = shutil.disk_usage(self._settings.store).free
        if free < needed:
            reason = f"{os.strerror(errno.ENOSPC)}: {free:,} bytes free, {needed:,} needed for the next shards"
            raise OSError(errno.ENOSPC, reason, self._settings.store)

    def _done(self, outcome: Outcome) -> None:
        with self._changed:
            self.videos += 1
            self.frames += outcome.num_frames
            self._bad += outcome.status in BAD_STATUSES
            self._bar.set_postfix(bad=self._bad, refresh=False)
            self._bar.update()


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


def _expected_bytes(task: Task, settings: Preprocess) -> int:
    """Bytes of source that a task decodes: shards that take longest are written first, so that all end together."""
    total = 0
    for video in task.videos:
        with contextlib.suppress(OSError):
            total += (Path(settings.data_root) / video.path).stat().st_size if video.path else 0
    return total


def run(settings: Preprocess) -> int:
    """Write every shard that is not finished, fill the ledgers in, and print a summary; returns an exit code."""
    ledgers = read_ledgers(settings)
    if not Path(settings.data_root).is_dir():
        raise UserError(f"preprocess.data_root: {settings.data_root!r} is not a folder; give it with DATA=DIR")
    store = Path(settings.store)
    began = time.perf_counter()
    with locked(store):
        remove_unfinished_ledgers(settings)
        check_recipe(store, settings)
        tasks = plan_all(ledgers, settings)
        todo = [task for task in tasks if not is_finished(task, settings)]
        log.info("%d shards, %d finished before", len(tasks), len(tasks) - len(todo))
        for name in strays(store, tasks)[:1]:
            log.warning("warning: %s and others are of an earlier plan; `make verify` lists them, delete them", name)
        frames = write_shards(todo, settings)
        rows = fill_ledgers(ledgers, tasks, settings)
    seconds = time.perf_counter() - began
    return _report(settings, rows, f"{len(todo)} of {len(tasks)} shards written", frames, seconds)


def plan_all(ledgers: dict[str, pd.DataFrame], settings: Preprocess) -> list[Task]:
    """The shards of all splits."""
    return [task for split, table in ledgers.items() for task in plan(table, settings, split)]


def strays(store: Path, tasks: list[Task]) -> list[str]:
    """Names of shards that no ledger plans."""
    return sorted({path.name for path in store.glob("*.h5")} - {task.path.name for task in tasks})


def write_shards(tasks: list[Task], settings: Preprocess) -> int:
    """Write shards, those that take longest first; returns the number of frames stored.  The store must be locked."""
    jobs = min(joblib.effective_n_jobs(settings.jobs), max(1, len(tasks)))
    tasks = sorted(tasks, key=lambda task: _expected_bytes(task, settings), reverse=True)
    try:
        with Run(settings, sum(len(task.videos) for task in tasks), jobs) as active:
            joblib.Parallel(n_jobs=jobs, backend="threading", batch_size=1, pre_dispatch=jobs)(
                joblib.delayed(active.write)(task) for task in tasks
            )
    finally:
        remove_temporary(Path(settings.store))
    return active.frames


def fill_ledgers(ledgers: dict[str, pd.DataFrame], tasks: list[Task], settings: Preprocess) -> pd.DataFrame:
    """Write the ledgers from what the shards say; returns all their rows."""
    filled = []
    for split, table in ledgers.items():
        written = [task.path for task in tasks if task.split == split]
        filled.append(ledger.fill(table, shards.read_outcomes(*written)) if written else table)
        ledger.write(ledger.ledger_path(settings, split), filled[-1])
    return pd.concat(filled, ignore_index=True)


def _report(settings: Preprocess, rows: pd.DataFrame, written: str, frames: int, seconds: float) -> int:
    """Print why videos are bad, then the last line, and say so when it is too many; returns the exit code."""
    bad = rows[rows["status"].isin(BAD_STATUSES)]
    for (status, reason), count in bad[["status", "reason"]].value_counts().head(_SHOWN_REASONS).items():
        print(f"{count:9,}  {status}: {reason}")
    num_ok, num_missing = (int((rows["status"] == status).sum()) for status in ("ok", "missing"))
    where = f" (see {Path(settings.manifests) / settings.dataset})" if len(bad) else ""
    print(
        f"ok {num_ok:,}, missing {num_missing:,}, bad {len(bad):,}{where}, {written}, {frames:,} frames, "
        f"{rows['nbytes'].sum() / 1e9:.2f} GB, {frames / seconds:,.0f} frames/s -> {settings.store}"
    )
    present = len(rows) - num_missing
    if present and len(bad) / present > settings.max_bad_fraction:
        log.error(
            "error: %d of %d videos are bad, more than preprocess.max_bad_fraction %g; the rest is stored",
            len(bad), present, settings.max_bad_fraction,
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
        check_recipe(Path(settings.store), settings)
        for split, table in read_ledgers(settings).items():
            todo = [task for task in plan(table, settings, split) if not is_finished(task, settings)]
            print(f"{split}: {len(table):,} videos, {len(todo)} shards to write")
            for task in todo[:5]:
                print(f"  {task.path}: {len(task.videos)} videos, first {task.videos[0].video_id}")
        return cli.EXIT_OK
    return run(settings)


if __name__ == "__main__":
    cli.run(main)
