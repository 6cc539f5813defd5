"""Shards written by the machines of a Dask cluster, which have data_root and store under the same paths.

The machine that runs `make preprocess` holds the store's lock, sends out one task a shard and fills the ledgers in.
Each worker thread decodes with a child process of its own (decoding/process.py), so the bytes are those of one machine.
When a worker dies only its shard's time is lost: Dask gives the task to another worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.common.errors import LossError, UserError
from pipeline.common.locking import owner
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.execution.plan import Task
from pipeline.execution.write_shard import write_shard
from pipeline.shards.store import Store

_CONNECT_S = 30
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
        client = distributed.Client(settings.scheduler, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UserError(
            f"preprocess.scheduler: {settings.scheduler} does not answer ({str(error).strip()}); start one with "
            "`dask scheduler`, and `dask worker` on each machine"
        ) from None
    with client:
        _check_workers(client.run(_obstacle, settings, run, _versions(), on_error="return"), settings)
        futures = client.map(_write, tasks, settings=settings, run=run, pure=False)
        try:
            refused = []
            for _, (outcomes, loss) in distributed.as_completed(futures, with_results=True):
                for outcome in outcomes:
                    done(outcome)
                refused += [loss] if loss else []
            return refused
        except distributed.KilledWorker as error:
            raise UserError(
                f"several workers died while writing a shard: {error}; read their logs and run the same command again"
            ) from None
        finally:
            client.cancel(futures)


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
