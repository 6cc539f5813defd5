"""Plans which videos go into which shard, and tells which shards are finished."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.common import recipe
from pipeline.common.errors import FormatError, MachineError, ShardError, UserError
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.ledger.schema import WAITING_STATUSES
from pipeline.ledger.table import ledger_folder, ledger_path
from pipeline.shards.format import shard_name
from pipeline.shards.store import EARLIER, Shard, Store, shards_in


@dataclass(frozen=True)
class PlannedVideo:
    """One row of a ledger, as far as writing its shard needs it.

    Attributes:
        video_id: the video.
        path: its file relative to data_root; empty when the file is missing.
        retry: it is bad and will be decoded again.
        held: paths of the shards of an earlier plan that have its frames.
        waiting: it waits to be decoded, for the first time or again.
    """

    video_id: str
    path: str
    retry: bool = False
    held: tuple[str, ...] = ()
    waiting: bool = False


@dataclass(frozen=True)
class Task:
    """One shard to be written.

    Attributes:
        path: the shard.
        split: train, val or test.
        videos: what it holds, in order.
        doubtful: videos that a damaged file at `path` may hold.
        accept_loss: it may be written without stored videos that cannot be read or decoded again; the file that it
            replaces is kept then.
    """

    path: Path
    split: str
    videos: tuple[PlannedVideo, ...]
    doubtful: frozenset[str] = frozenset()
    accept_loss: bool = False


def plan_shards(table: pd.DataFrame, settings: Preprocess, split: str) -> list[Task]:
    """Plan which videos each shard of a split holds.

    A seeded permutation of all rows spreads the classes over the shards.  It does not depend on what is on disk, so a
    video that is downloaded later goes into the same shard as if it had always been there.

    Args:
        table: the ledger of the split.
        settings: the recipe.
        split: train, val or test.
    """
    order = np.random.default_rng([settings.seed, SPLITS.index(split)]).permutation(len(table))
    rows = [
        PlannedVideo(str(video_id), str(path), status == "retry", waiting=status in WAITING_STATUSES)
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


def check_recipe(store: Store, settings: Preprocess) -> None:
    """Refuse a store of another recipe, judged by its first readable shard.

    Raises:
        UserError: it is of another recipe or format; nothing may be overwritten.
    """
    for path in store.paths():
        try:
            shard = store.shard(path)
        except FormatError:
            raise
        except ShardError:
            continue
        check_same_recipe(shard, settings)
        return


def check_store_of_ledgers(ledgers: dict[str, pd.DataFrame], settings: Preprocess, store: Store) -> None:
    """Refuse a store that is not the one that the ledgers are about, before shards are moved or written.

    Raises:
        UserError: it has shards of a split without a ledger; or the ledgers name shards, and it has none.
    """
    paths = store.paths()
    for split in SPLITS:
        shards = [path.name for path in paths if path.name.startswith(f"{split}-")]
        if shards and split not in ledgers:
            raise UserError(
                f"{store.folder}: has {len(shards):,} shards of {split}, but {ledger_path(settings, split)} is "
                f"missing. Run `make manifests`. If no label file has rows of {split} any more, move these shards to "
                "another folder."
            )
    stored = sum(int(table["status"].eq("ok").sum()) for table in ledgers.values())
    if stored and not paths and not shards_in(store.folder / EARLIER):
        raise UserError(
            f"{store.folder}: has no shards, but by the ledgers in {ledger_folder(settings)} {stored:,} videos are "
            "stored. Give the store that they are in (make: STORE=DIR), or run `make manifests` for this one."
        )


def check_same_recipe(shard: Shard, settings: Preprocess) -> None:
    """Refuse a shard of another recipe.

    Raises:
        UserError: naming what differs.
    """
    if shard.recipe != settings.to_json():
        raise UserError(
            f"{shard.path}: this store has another recipe ({recipe.differences(settings.to_json(), shard.recipe)}); "
            "use its settings, or another STORE=DIR"
        )


def is_finished(task: Task, settings: Preprocess, store: Store) -> bool:
    """Whether a shard exists, is intact, of this recipe and plan, and has no video left to be decoded (again).

    Raises:
        UserError: it is of another recipe or format; nothing is overwritten.
    """
    try:
        shard = store.shard(task.path)
    except FormatError:
        raise
    except ShardError:
        return False
    check_same_recipe(shard, settings)
    if shard.planned() != [video.video_id for video in task.videos]:
        return False
    if any(video.retry for video in task.videos) or "retry" in shard.outcomes["status"]:
        return False
    missing = set(shard.outcomes["video_id"][shard.outcomes["status"] == "missing"])
    root = Path(settings.data_root)
    return not any(video.video_id in missing and (video.held or is_there(video, root)) for video in task.videos)


def is_there(video: PlannedVideo, root: Path) -> bool:
    """Whether a video's file is on disk; one in a folder that may not be read counts, and its decoding says so."""
    try:
        return bool(video.path) and (root / video.path).exists()
    except PermissionError:
        return True


def check_folder(video: PlannedVideo, root: Path) -> None:
    """Check the folder of a video that waits to be decoded and is not there: it may be the disk that is not there.

    Raises:
        MachineError: the folder is missing or empty, though `make manifests` saw the video in it.
    """
    if not (video.waiting and video.path):
        return
    folder = (root / video.path).parent
    try:
        with os.scandir(folder) as entries:
            if any(True for _ in entries):
                return
        what = "empty"
    except PermissionError:  # it is there: decoding gives its videos `io`, and the next run tries them again
        return
    except OSError as error:
        what = f"gone ({error.strerror})"
    raise MachineError(
        f"{folder}: this folder of videos is {what}, and {video.video_id} waits to be decoded. Bring it back and run "
        "the same command again; or run `make manifests` if the videos were deleted."
    )


def check_folders(tasks: Iterable[Task], settings: Preprocess) -> None:
    """`check_folder` for one waiting video of each folder.

    Raises:
        MachineError: a folder is missing or empty.
    """
    waiting = {os.path.dirname(video.path): video for task in tasks for video in task.videos if video.waiting}
    for video in waiting.values():
        check_folder(video, Path(settings.data_root))


def plan_all(ledgers: dict[str, pd.DataFrame], settings: Preprocess) -> list[Task]:
    """The shards of all splits."""
    return [task for split, table in ledgers.items() for task in plan_shards(table, settings, split)]


def strays(store: Store, tasks: list[Task]) -> list[str]:
    """Names of shards that no ledger plans."""
    return sorted({path.name for path in store.paths()} - {task.path.name for task in tasks})
