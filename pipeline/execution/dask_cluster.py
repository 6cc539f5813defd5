"""Shards written by the machines of a Dask cluster, which have data_root and store under the same paths.

The machine that runs `make preprocess` holds the store's lock, sends out one task a shard and fills the ledgers in.
Each worker thread decodes with a child process of its own (decoding/process.py), so the bytes are those of one machine.
When a worker dies only its shard's time is lost: Dask gives the task to another worker.  A scheduler that is gone, or
a cluster without a worker, ends the run within 10 s.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import LossError, MachineError, UserError
from pipeline.common.files import keep_work
from pipeline.common.locking import owner
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.execution.plan import Task
from pipeline.execution.write_shard import write_shard
from pipeline.shards.store import Store

if TYPE_CHECKING:
    import distributed

_CONNECT_S = 6
_LOST_S = 6  # so long the scheduler may not answer, or there may be no worker; a worker that died is replaced in 2 s
_LOOK_S = 1
_NO_SCHEDULER = "does not answer any more"
_DECIDING = ("decord2", "av", "opencv-python-headless", "simplejpeg", "numpy", "h5py")  # the bytes of a shard


def write_shards(tasks: Sequence[Task], settings: Preprocess, done: Callable[[Outcome], None]) -> list[LossError]:
    """Write shards on the cluster of `settings.scheduler`, in the order given; the store must be locked.

    Args:
        tasks: the shards.
        settings: the recipe.
        done: called with the outcome of each video, shard by shard as they finish.

    Returns:
        Why some shards were not written.

    Raises:
        UserError: Dask is not installed, the scheduler does not answer, or a worker cannot take part.
        MachineError: the scheduler or all workers are gone, or several workers died while they wrote one shard.
        OSError: a worker's disk is full or fails.
    """
    try:
        import distributed
    except ImportError:
        raise UserError(
            "preprocess.engine: dask is not installed; .venv/bin/pip install -e '.[cluster]', here and on every worker"
        ) from None
    settings = replace(settings, data_root=os.path.abspath(settings.data_root), store=os.path.abspath(settings.store))
    tasks = [replace(task, path=Path(os.path.abspath(task.path))) for task in tasks]
    run = owner(Path(settings.store))
    try:
        client = _connect(settings.scheduler)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"preprocess.scheduler: {settings.scheduler} does not answer ({why}); start one with "
            "`dask scheduler`, and `dask worker` on each machine"
        ) from None
    with client:
        _check_workers(client.run(_obstacle, settings, run, _versions(), on_error="return"), settings)
        futures = client.map(_write, tasks, settings=settings, run=run, pure=False)
        try:
            refused = []
            for outcomes, loss in _results(client, futures, settings):
                keep_work()
                for outcome in outcomes:
                    done(outcome)
                refused += [loss] if loss else []
            return refused
        except distributed.KilledWorker as error:
            raise MachineError(
                f"several workers died while writing a shard: {error}; read their logs and run the same command again"
            ) from None
        finally:
            if client.status == "running":
                client.cancel(futures)


def _connect(scheduler: str) -> distributed.Client:
    """A client of the cluster, within _CONNECT_S and a second.

    Raises:
        OSError, ValueError: there is no scheduler that answers.
    """
    import distributed

    answers: queue.SimpleQueue[distributed.Client | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(distributed.Client(scheduler, timeout=_CONNECT_S))
        except Exception as error:
            answers.put(error)

    # In a thread, because Dask has no time limit for a program that accepts the connection and then says nothing.
    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=_CONNECT_S + 1)
    except queue.Empty:
        raise OSError("it accepts connections but is silent") from None
    if isinstance(answer, OSError | ValueError):
        raise answer
    if isinstance(answer, Exception):  # such as MemoryError: what is no scheduler announces messages of any size
        raise OSError("its answer is not that of a scheduler")
    return answer


def _results(
    client: distributed.Client, futures: Sequence[distributed.Future], settings: Preprocess
) -> Iterator[tuple[list[Outcome], LossError | None]]:
    """The result of each task as it finishes.

    Dask itself waits for a scheduler and for workers: half a minute, or for ever.

    Raises:
        MachineError: the scheduler or all workers are gone.
    """
    import distributed

    finished: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(finished.put)
    num_waiting, last_seen = len(futures), time.monotonic()
    while num_waiting:
        problem = ""
        try:
            future = finished.get(timeout=_LOOK_S)
            if future.status == "cancelled":  # by the client, at the moment when it loses the scheduler
                raise _lost(settings, _NO_SCHEDULER)
            yield future.result(timeout=_LOST_S)
            num_waiting -= 1
        except queue.Empty:
            problem = _problem(client)
        except distributed.TimeoutError:
            if future.status == "error":  # the task's own
                raise
            future.add_done_callback(finished.put)  # the worker that had the result died: another one makes it again
            problem = _problem(client)
        if not problem:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > _LOST_S:
            raise _lost(settings, problem)


def _problem(client: distributed.Client) -> str:
    """Why no task can finish at this moment; empty when some can."""
    import distributed

    try:
        workers = client.sync(client.scheduler.identity, callback_timeout=_LOOK_S)["workers"]
    except (OSError, distributed.TimeoutError):
        return _NO_SCHEDULER
    return "" if workers else "has no workers any more"


def _lost(settings: Preprocess, problem: str) -> MachineError:
    for name in ("client", "core", "utils"):  # which log the tracebacks of their own attempts to connect
        logging.getLogger(f"distributed.{name}").setLevel(logging.CRITICAL)
    return MachineError(
        f"preprocess.scheduler: {settings.scheduler} {problem}. Read the logs of the scheduler and the workers, start "
        "those that ended, and run the same command again."
    )


def _write(task: Task, settings: Preprocess, run: str) -> tuple[list[Outcome], LossError | None]:
    """One shard, on a worker; and why it was not written."""
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        # Dask cannot stop a task that has begun; but nothing may be written for a run that has ended or was killed.
        if owner(Path(settings.store)) != run:
            raise RuntimeError(f"{settings.store} is no longer locked by {run}")
        outcomes.append(outcome)

    with Decoder(settings) as decoder:
        try:
            write_shard(task, settings, Store(Path(settings.store)), decoder, done)
        except LossError as error:
            return outcomes, error
    return outcomes, None


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _DECIDING}


def _obstacle(settings: Preprocess, run: str, versions: dict[str, str]) -> str:
    """On a worker: why it cannot take part; empty when it can."""
    if not os.path.isdir(settings.data_root):
        return f"data_root {settings.data_root} is missing"
    if owner(Path(settings.store)) != run or not os.access(settings.store, os.W_OK):
        return f"store {settings.store} is not the one of this run, or is read-only"
    ours = _versions()
    return "; ".join(
        f"{name} {ours[name]}, expected {version}" for name, version in versions.items() if ours[name] != version
    )


def _check_workers(answers: dict[str, Any], settings: Preprocess) -> None:
    """Refuse a cluster with a worker that cannot take part.

    Raises:
        UserError: it names each such worker; or there are no workers.
    """
    if not answers:
        raise UserError(
            f"preprocess.scheduler: {settings.scheduler} has no workers. Run `dask worker` on each machine."
        )
    obstacles = [f"{worker}: {answer}" for worker, answer in answers.items() if answer]
    if obstacles:
        raise UserError(f"{len(obstacles)} of {len(answers)} workers cannot take part: {'; '.join(obstacles)}")
