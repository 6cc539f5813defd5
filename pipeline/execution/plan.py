"""Which videos go into which shard, and which shards are finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common import recipe
from pipeline.common.errors import FormatError, ShardError, UserError
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.shards.format import shard_name
from pipeline.shards.store import Account, read_account


@dataclass(frozen=True)
class PlannedVideo:
    """One row of a ledger, as far as its shard needs to know it."""

    video_id: str
    path: str  # relative to data_root; empty when the file is missing
    retry: bool = False  # a bad video that is to be decoded again
    held: str = ""  # the shard of an earlier plan that has its frames


@dataclass(frozen=True)
class Task:
    """One shard to be written."""

    path: Path
    split: str
    videos: tuple[PlannedVideo, ...]


def plan_shards(table: pd.DataFrame, settings: Preprocess, split: str) -> list[Task]:
    """Which videos each shard of a split holds.

    A permutation of all rows, seeded, spreads the classes over the shards; it does not look at what is on disk, so a
    video that is downloaded later goes where it would always have gone.
    """
    order = np.random.default_rng([settings.seed, SPLITS.index(split)]).permutation(len(table))
    rows = [
        PlannedVideo(str(video_id), str(path), status == "retry")
        for video_id, path, status in zip(table["video_id"], table["path"], table["status"], strict=True)
    ]
    size = settings.videos_per_shard
    count = -(-len(rows) // size)
    return [
        Task(
            path=Path(settings.store) / shard_name(split, number, count),
            split=split,
            videos=tuple(rows[row] for row in order[number * size : (number + 1) * size]),
        )
        for number in range(count)
    ]


def check_recipe(store: Path, settings: Preprocess) -> None:
    """Look at one shard of a store, whatever it is called.

    Raises:
        UserError: it is of another recipe or format; nothing may be overwritten.
    """
    for path in sorted(store.glob("*.h5")):
        try:
            account = read_account(path)
        except FormatError:
            raise
        except ShardError:
            continue  # damaged; the next one tells
        check_same_recipe(path, account, settings)
        return


def check_same_recipe(path: Path, account: Account, settings: Preprocess) -> None:
    """Refuse a shard of another recipe.

    Raises:
        UserError: naming what differs.
    """
    if account.recipe != settings.to_json():
        raise UserError(
            f"{path}: this store has another recipe ({recipe.differences(settings.to_json(), account.recipe)}); "
            "use its settings, or another STORE=DIR"
        )


def is_finished(task: Task, settings: Preprocess) -> bool:
    """Whether a shard is there, whole, of this recipe and plan, and has no video left to be decoded (again).

    Raises:
        UserError: it is of another recipe or format; nothing is overwritten.
    """
    if not task.path.is_file():
        return False
    try:
        account = read_account(task.path)
    except FormatError:
        raise
    except ShardError:
        return False
    check_same_recipe(task.path, account, settings)
    outcomes = account.outcomes
    if outcomes["video_id"].tolist() != [video.video_id for video in task.videos]:
        return False
    if any(video.retry for video in task.videos):
        return False
    missing = set(outcomes["video_id"][outcomes["status"] == "missing"])
    root = Path(settings.data_root)
    return not any(video.video_id in missing and (video.held or is_there(video, root)) for video in task.videos)


def is_there(video: PlannedVideo, root: Path) -> bool:
    """Whether a video's file is on disk."""
    return bool(video.path) and (root / video.path).exists()


def plan_all(ledgers: dict[str, pd.DataFrame], settings: Preprocess) -> list[Task]:
    """The shards of all splits."""
    return [task for split, table in ledgers.items() for task in plan_shards(table, settings, split)]


def strays(store: Path, tasks: list[Task]) -> list[str]:
    """Names of shards that no ledger plans."""
    return sorted({path.name for path in store.glob("*.h5")} - {task.path.name for task in tasks})
