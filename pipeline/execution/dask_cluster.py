"""Shards written by the machines of a Dask cluster, which reach data_root and store by the same paths.

The machine that runs `make preprocess` holds the store's lock, hands out one task a shard and fills the ledgers in;
each worker thread decodes with a child of its own (isolate.py), so the bytes are those of one machine.  A worker that
dies costs its shard's time: Dask gives the task to another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.locking import owner
from pipeline.common.outcome import Outcome
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.execution.plan import Task
from pipeline.execution.write_shard import write_shard

_CONNECT_S = 30
_DECIDING = ("decord2", "av", "opencv-python-headless", "simplejpeg", "numpy", "h5py")  # the bytes of a shard


def write_shards(tasks: Sequence[Task], settings: Preprocess, done: Callable[[Outcome], None]) -> None:
    """Write shards on the cluster of `settings.scheduler`, in the order given; the store must be locked.

    Args:
        tasks: the shards.
        settings: the recipe.
        done: called with the outcome of each video, shard by shard as they are finished.

    Raises:
        UserError: Dask is not installed, the scheduler does not answer, or a worker cannot do its part.
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
        _check_workers(client.run(_lacks, settings, run, _versions(), on_error="return"), settings)
        futures = client.map(_write, tasks, settings=settings, run=run, pure=False)
        try:
            for _, outcomes in distributed.as_completed(futures, with_results=True):
                for outcome in outcomes:
                    done(outcome)
        except distributed.KilledWorker as error:
            raise UserError(f"workers died again and again while writing a shard: {error}") from None
        finally:
            client.cancel(futures)


def _write(task: Task, settings: Preprocess, run: str) -> list[Outcome]:
    """One shard, on a worker."""
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        # Dask cannot stop what has begun; but a run that has ended, killed even, must not be written for.
        if owner(Path(settings.store)) != run:
            raise RuntimeError(f"{settings.store} is not held by {run} any more")
        outcomes.append(outcome)

    with Decoder(settings) as decoder:
        write_shard(task, settings, decoder, done)
    return outcomes


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _DECIDING}


def _lacks(settings: Preprocess, run: str, versions: dict[str, str]) -> str:
    """On a worker: what keeps it from doing its part; empty when nothing does."""
    if not os.path.isdir(settings.data_root):
        return f"data_root {settings.data_root} is not there"
    if owner(Path(settings.store)) != run or not os.access(settings.store, os.W_OK):
        return f"store {settings.store} is not the one of this run, or cannot be written"
    ours = _versions()
    return "; ".join(f"{name} {ours[name]}, here {there}" for name, there in versions.items() if ours[name] != there)


def _check_workers(answers: dict[str, Any], settings: Preprocess) -> None:
    """Refuse a cluster of which a worker lacks something.

    Raises:
        UserError: naming each such worker; or there is none.
    """
    if not answers:
        raise UserError(f"preprocess.scheduler: {settings.scheduler} has no workers; start `dask worker` on machines")
    said = [f"{worker}: {answer}" for worker, answer in answers.items() if answer]
    if said:
        raise UserError(f"{len(said)} of {len(answers)} workers cannot take part: {'; '.join(said)}")
