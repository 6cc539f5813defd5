"""One run of preprocessing: plan, write the shards that are not finished, fill the ledgers in, report the result."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.common.errors import EXIT_IO, EXIT_OK, EXIT_TOO_MANY_BAD, LossError, UserError
from pipeline.common.locking import locked, remove_temporary
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.common.text import some
from pipeline.execution import damaged, dask_cluster, local, previous_plan
from pipeline.execution.plan import (
    Task,
    check_folders,
    check_recipe,
    check_store_of_ledgers,
    is_finished,
    plan_all,
    plan_shards,
)
from pipeline.ledger.schema import BAD_STATUSES, WAITING_STATUSES
from pipeline.ledger.table import awaited, fill_ledger, ledger_folder, ledger_path, read_ledgers, write_ledgers
from pipeline.shards.store import Store, outcomes_table

_SHOWN_REASONS = 20
_REPORT_S = 60.0  # seconds between two lines of progress where there is no terminal

log = logging.getLogger(__name__)


class ProgressBar:
    """The progress of a run: a bar on a terminal, elsewhere a line a minute.

    Args:
        num_videos: of the run.

    Attributes:
        frames: number of frames stored so far.
    """

    def __init__(self, num_videos: int) -> None:
        self.frames = self._bad = 0
        self._lock = threading.Lock()
        self._num_videos, self._done = num_videos, 0
        self._bar = tqdm(total=num_videos, unit="video", smoothing=0.05, disable=None)
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._reports = threading.Thread(target=self._report, name="progress", daemon=True)
        if self._bar.disable:
            self._reports.start()

    def _report(self) -> None:
        """Log a line a minute, also when no video is finished in it: a run that waits is not one that died."""
        while not self._ended.wait(_REPORT_S):
            with self._lock:
                done, bad = self._done, self._bad
            rate = done / (time.monotonic() - self._began)
            left = f", about {tqdm.format_interval((self._num_videos - done) / rate)} left" if done else ""
            log.info("%s of %s videos, %d bad, %.1f videos/s%s", f"{done:,}", f"{self._num_videos:,}", bad, rate, left)

    def done(self, outcome: Outcome) -> None:
        """Count a finished video; from any thread."""
        with self._lock:
            self.frames += outcome.num_frames
            self._bad += outcome.status in BAD_STATUSES
            self._done += 1
            self._bar.set_postfix(bad=self._bad, refresh=False)
            self._bar.update()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._reports.is_alive():
            self._reports.join()
        self._bar.close()


def _source_bytes(task: Task, settings: Preprocess) -> int:
    """Bytes of the source files of a task: those to decode, and those of videos that are only copied."""
    total = 0
    for video in task.videos:
        with contextlib.suppress(OSError):
            total += (Path(settings.data_root) / video.path).stat().st_size if video.path else 0
    return total


def preprocess_store(settings: Preprocess, *, accept_loss: bool = False) -> int:
    """Write every shard that is not finished, fill the ledgers in, and print a summary; returns an exit code.

    Args:
        settings: the recipe.
        accept_loss: write shards also without videos that a damaged one held and that cannot be decoded again.

    Raises:
        UserError: data_root or ledgers are missing, or the store is not that of the ledgers, or of another recipe or
            format.
        LossError: some shards were not written, because videos would be lost; all others are finished.
        LockedError: another command is writing to the store or the ledgers.
        OSError: the disk is full or fails; finished shards are kept.
    """
    check_data_root(settings)
    began = time.perf_counter()
    store = Store(Path(settings.store))
    check_store_of_ledgers(read_ledgers(settings), settings, store)  # fail before a store is made
    with locked(Path(settings.store)), locked(ledger_folder(settings)):
        ledgers = read_ledgers(settings)
        check_recipe(store, settings)
        tasks = plan_all(ledgers, settings)
        check_folders(tasks, settings)
        tasks, refused = damaged.rescue(tasks, ledgers, settings, store, accept_loss=accept_loss)
        tasks = previous_plan.arrange(tasks, settings, store, refused)
        todo = [task for task in tasks if task.path not in refused and not is_finished(task, settings, store)]
        log.info("%d shards, %d of them finished before", len(tasks), len(tasks) - len(todo) - len(refused))
        frames = write_shards(todo, settings, store, refused)
        check_folders(tasks, settings)  # before videos are recorded as missing
        written = [task for task in tasks if task.path not in refused]
        rows = fill_ledgers(ledgers, written, settings, store, keep_awaited=False)
        previous_plan.clear(written, settings, store)
    seconds = time.perf_counter() - began
    num_written = len([task for task in todo if task.path not in refused])
    code = _report(settings, rows, f"{num_written} of {len(tasks)} shards written", frames, seconds)
    damaged.remind_of_kept(store)
    raise_refused(refused, store)
    return code


def raise_refused(refused: dict[Path, LossError], store: Store) -> None:
    """Raise the error for shards that were not written, if there are any.

    Raises:
        LossError: there are.
    """
    errors = list(dict.fromkeys(refused.values()))  # one damaged file may stop several
    if len(errors) == 1:
        raise errors[0]
    for error in errors:
        log.error("%s: %s", error.path, error.what)
    if errors:
        names = some(path.name for path in refused)
        what = f"{len(errors):,} shards were not written, because videos may be lost: {names}"
        raise LossError(store.folder, what, errors[0].action)


def print_plan(settings: Preprocess) -> None:
    """Print what `preprocess_store` would write; nothing is written.

    Raises:
        UserError: ledgers are missing, or the store is not that of the ledgers, or of another recipe or format.
    """
    store = Store(Path(settings.store))
    check_recipe(store, settings)
    ledgers = read_ledgers(settings)
    check_store_of_ledgers(ledgers, settings, store)
    for split, table in ledgers.items():
        todo = [task for task in plan_shards(table, settings, split) if not is_finished(task, settings, store)]
        pending = int(table["status"].isin(WAITING_STATUSES).sum())
        print(f"{split}: {len(table):,} videos, {pending:,} to decode, {len(todo)} shards to write")
        for task in todo[:5]:
            print(f"  {task.path}: {len(task.videos)} videos, first {task.videos[0].video_id}")


def check_data_root(settings: Preprocess) -> None:
    """Check that the folder of videos can be reached, before any video is recorded as missing.

    Raises:
        UserError: `data_root` is not a folder.
    """
    if not Path(settings.data_root).is_dir():
        raise UserError(f"preprocess.data_root: {settings.data_root!r} is not a folder; give it with DATA=DIR")


def write_shards(tasks: list[Task], settings: Preprocess, store: Store, refused: dict[Path, LossError]) -> int:
    """Write shards, those that take longest first; the store must be locked.

    Args:
        tasks: the shards.
        settings: the recipe.
        store: its shards; those that this process writes are added.
        refused: why some were not written, by path; is added to.

    Returns:
        The number of frames stored.

    Raises:
        UserError: the cluster cannot be used.
        OSError: the disk is full or fails.
    """
    # The shards that take longest come first, so that all jobs end together.
    tasks = sorted(tasks, key=lambda task: _source_bytes(task, settings), reverse=True)
    try:
        with ProgressBar(sum(len(task.videos) for task in tasks)) as bar:
            if settings.engine == "dask":
                errors = dask_cluster.write_shards(tasks, settings, bar.done)
            else:
                errors = local.write_shards(tasks, settings, store, bar.done)
    finally:
        remove_temporary(Path(settings.store))
    refused.update({Path(settings.store) / error.path.name: error for error in errors})
    return bar.frames


def fill_ledgers(
    ledgers: dict[str, pd.DataFrame], tasks: list[Task], settings: Preprocess, store: Store, *, keep_awaited: bool
) -> pd.DataFrame:
    """Write the ledgers with the outcomes of the shards; returns all their rows.

    Args:
        ledgers: by split.
        tasks: those of the plan whose shards are written; rows of others are unchanged.
        settings: the recipe.
        store: its shards.
        keep_awaited: leave the rows of videos that still wait to be decoded (`awaited`) as they are.

    Raises:
        ShardError: a shard cannot be read.
    """
    filled = {}
    for split, table in ledgers.items():
        shards = [store.shard(task.path) for task in tasks if task.split == split]
        if shards:
            outcomes = outcomes_table(shards)
            table = fill_ledger(table, outcomes[~awaited(table, outcomes)] if keep_awaited else outcomes)
        filled[ledger_path(settings, split)] = table
    write_ledgers(filled)
    return pd.concat(filled.values(), ignore_index=True)


def _report(settings: Preprocess, rows: pd.DataFrame, written: str, frames: int, seconds: float) -> int:
    """Print why videos are bad, then the summary; an error when too many are bad.  Returns the exit code."""
    bad = rows[rows["status"].isin(BAD_STATUSES)]
    unread = rows[rows["status"].eq("retry")]
    reasons = pd.concat([bad, unread])[["status", "reason"]].value_counts()
    for (status, reason), count in reasons.head(_SHOWN_REASONS).items():
        print(f"{count:9,}  {status}: {reason}")
    num_ok, num_missing = (int((rows["status"] == status).sum()) for status in ("ok", "missing"))
    where = f" (see {Path(settings.manifests) / settings.dataset})" if len(bad) else ""
    print(
        f"ok {num_ok:,}, missing {num_missing:,}, bad {len(bad):,}{where}, {written}, {frames:,} frames, "
        f"{rows['nbytes'].sum() / 1e9:.2f} GB, {frames / seconds:,.0f} frames/s -> {settings.store}"
    )
    present = len(rows) - num_missing
    if len(unread):
        log.error(
            "error: %d of %d videos could not be read. All others are stored. Fix the disk or its connection and run "
            "the same command again: it decodes them.", len(unread), present,
        )  # fmt: skip
    if present and len(unread) / present > settings.max_bad_fraction:
        return EXIT_IO
    if present and len(bad) / present > settings.max_bad_fraction:
        log.error(
            "error: %d of %d videos are bad, more than preprocess.max_bad_fraction %g allows. All others are stored, "
            "and the ledgers name the reason for each bad one. Raise that key to accept them.",
            len(bad), present, settings.max_bad_fraction,
        )  # fmt: skip
        return EXIT_TOO_MANY_BAD
    return EXIT_OK
