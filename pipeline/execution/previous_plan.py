"""Shards of an earlier plan: set aside, copied from, and removed when all they hold is in shards of today's plan.

Which shard a video belongs to hangs on all rows of its split, so adding a row to a label file moves most videos.  What
was decoded is not decoded again for that, and is not lost when its source is gone: `<store>/earlier/` keeps the old
shards until their videos are copied.  It needs room for both.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.common.errors import FormatError, ShardError
from pipeline.common.files import sync_folder
from pipeline.common.recipe import Preprocess
from pipeline.common.text import some
from pipeline.execution.plan import Task, check_same_recipe
from pipeline.shards.store import read_account

_FOLDER = "earlier"

log = logging.getLogger(__name__)


def set_aside(tasks: Iterable[Task], settings: Preprocess, only: Collection[str] | None = None) -> None:
    """Move shards that hold videos, and others than planned, out of the way.

    Args:
        tasks: the plan.
        settings: the recipe.
        only: names of the shards to look at; None: all there are.

    Raises:
        UserError: a shard is of another recipe or format; no shard is moved then.
    """
    store = Path(settings.store)
    planned = {task.path.name: [video.video_id for video in task.videos] for task in tasks}
    moving = []
    for path in sorted(store.glob("*.h5")):
        if only is not None and path.name not in only:
            continue
        try:
            account = read_account(path)
        except FormatError:
            raise
        except ShardError:  # damaged: written anew if it is planned, named by `make verify` if it is not
            continue
        check_same_recipe(path, account, settings)
        other = account.outcomes["video_id"].tolist() != planned.get(path.name)
        if other and "ok" in account.outcomes["status"]:
            moving.append(path)
    if not moving:
        return
    folder = store / _FOLDER
    folder.mkdir(exist_ok=True)
    for path in moving:
        os.replace(path, _free(folder / path.name))
    sync_folder(folder)
    sync_folder(store)
    log.info(
        "%d shards are of another plan: the label files have changed. What they hold is copied, not decoded again; "
        "until that is done they are in %s", len(moving), folder,
    )  # fmt: skip


def _free(path: Path) -> Path:
    """`path`, or when there is such a file, one of its name and a number."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}.h5")
    return free


def with_places(tasks: Iterable[Task], settings: Preprocess) -> list[Task]:
    """`tasks`, whose videos know the shard in `earlier/` that holds them."""
    held = {}
    for path in _shards(settings):
        for video_id in _stored(path, settings):
            held[video_id] = str(path)
    return [
        replace(task, videos=tuple(replace(video, held=held.get(video.video_id, "")) for video in task.videos))
        if held else task
        for task in tasks
    ]  # fmt: skip


def clear(tasks: Iterable[Task], settings: Preprocess) -> None:
    """Remove the shards in `earlier/` whose videos are all in shards of `tasks`; name those that hold more."""
    paths = _shards(settings)
    if not paths:
        return
    stored: set[str] = set()
    for task in tasks:
        stored.update(_stored(task.path, settings))
    for path in paths:
        more = sorted(set(_stored(path, settings)) - stored)
        if more:
            log.warning(
                "warning: %s holds %d videos that are in no other shard: %s; they are used when their rows are in a "
                "label file again, or delete it", path, len(more), some(more),
            )  # fmt: skip
        else:
            path.unlink()
    folder = Path(settings.store) / _FOLDER
    if not any(folder.iterdir()):
        folder.rmdir()


def _shards(settings: Preprocess) -> list[Path]:
    return sorted((Path(settings.store) / _FOLDER).glob("*.h5"))


def _stored(path: Path, settings: Preprocess) -> list[str]:
    """The videos whose frames a shard of this recipe holds; none of one that cannot be read."""
    try:
        account = read_account(path)
    except ShardError:
        return []
    if account.recipe_sha256 != settings.fingerprint():
        return []
    outcomes = account.outcomes
    return outcomes["video_id"][outcomes["status"] == "ok"].tolist()
