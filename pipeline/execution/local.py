"""Shards written by this machine: a joblib task and a decoder for each of `jobs` shards at a time."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import joblib

from pipeline.common.errors import LossError
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder, DecoderStopped
from pipeline.execution.plan import Task
from pipeline.execution.write_shard import write_shard
from pipeline.shards.store import Store

_SPARE_BYTES = 64 << 20  # for each shard being written
_STOP_S = 10  # for tasks to delete their temporary files


def write_shards(
    tasks: Sequence[Task], settings: Preprocess, store: Store, done: Callable[[Outcome], None]
) -> list[LossError]:
    """Write shards on this machine, in the order given; the store must be locked.

    Args:
        tasks: the shards.
        settings: the recipe; `jobs` of them are written at once.
        store: its shards; the written ones are added.
        done: called with the outcome of each finished video, from several threads.

    Returns:
        Why some shards were not written.

    Raises:
        OSError: the disk is full or fails.
    """
    jobs = min(joblib.effective_n_jobs(settings.jobs), max(1, len(tasks)))
    with _Run(settings, store, jobs, done) as active:
        joblib.Parallel(n_jobs=jobs, backend="threading", batch_size=1, pre_dispatch=jobs)(
            joblib.delayed(active.write)(task) for task in tasks
        )
    return active.refused


class _Run:
    """The shards of one run being written on this machine: its decoders and its end.

    Tasks run in threads, because all heavy work is done in the decoders, which are separate processes; so only a
    decoder can crash.  Leaving the context with an exception stops the decoders and waits for the tasks to delete what
    they were writing.

    Args:
        settings: the recipe.
        store: its shards.
        jobs: tasks at a time.
        done: called with the outcome of each finished video, from the tasks' threads.

    Attributes:
        refused: why some shards were not written.
    """

    def __init__(self, settings: Preprocess, store: Store, jobs: int, done: Callable[[Outcome], None]) -> None:
        self.refused: list[LossError] = []
        self._settings = settings
        self._store = store
        self._done = done
        self._idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        self._decoders: list[Decoder] = []
        # With a decoder for every core each stays on its own: pictures stay in one core's cache on their way from
        # FFmpeg's thread to ours (a tenth less CPU, a quarter more videos/s).  With fewer, the system places them.
        cores = sorted(os.sched_getaffinity(0))
        self._cores = cores if jobs >= len(cores) else [None]
        self._changed = threading.Condition()
        self._running = self._finished_bytes = self._finished_videos = 0
        self._stopped = False

    def write(self, task: Task) -> None:
        """Write one shard, as a joblib task."""
        with self._changed:
            if self._stopped:
                return
            self._running += 1
        try:
            self._check_space(task)
            decoder = self._decoder()
            try:
                write_shard(task, self._settings, self._store, decoder, self._done)
            except LossError as error:
                self.refused.append(error)
                self._idle.put(decoder)
                return
            self._idle.put(decoder)
            with self._changed:
                self._finished_bytes += task.path.stat().st_size
                self._finished_videos += len(task.videos)
        except DecoderStopped:
            pass
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def __enter__(self) -> _Run:
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
        """Stop before the disk is full, while every shard that is being written can still be finished.

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
