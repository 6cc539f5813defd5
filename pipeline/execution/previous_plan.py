"""Shards of an earlier plan: moved aside, copied from, and removed when the new shards hold all of their videos.

The shard of a video depends on all rows of its split, so one more row in a label file moves most videos.  Decoded
videos are not decoded again for that, and are not lost when their source is: `<store>/earlier/` keeps the old shards
until their videos are copied.  The disk needs room for both.
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
from pipeline.shards.store import Store

_FOLDER = "earlier"

log = logging.getLogger(__name__)


def set_aside(tasks: Iterable[Task], settings: Preprocess, store: Store, only: Collection[str] | None = None) -> None:
    """Move shards that hold other videos than planned to `earlier/`; one without any stored video stays.

    Args:
        tasks: the plan.
        settings: the recipe.
        store: its shards.
        only: names of the shards to look at; None: all.

    Raises:
        UserError: a shard is of another recipe or format; no shard is moved then.
    """
    planned = {task.path.name: [video.video_id for video in task.videos] for task in tasks}
    moving = []
    for path in store.paths():
        if only is not None and path.name not in only:
            continue
        try:
            shard = store.shard(path)
        except FormatError:
            raise
        except ShardError:  # corrupted: written again if it is planned, named by `make verify` if it is not
            continue
        check_same_recipe(shard, settings)
        if shard.planned() != planned.get(path.name) and shard.stored():
            moving.append(path)
    if not moving:
        return
    folder = store.folder / _FOLDER
    folder.mkdir(exist_ok=True)
    for path in moving:
        os.replace(path, _free(folder / path.name))
    sync_folder(folder)
    sync_folder(store.folder)
    log.info(
        "Label files changed, so videos move to other shards. Existing videos are copied, not decoded again. "
        "The %d old shards stay in %s until then.", len(moving), folder,
    )  # fmt: skip


def _free(path: Path) -> Path:
    """`path`, or with a number in its name when that file exists."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}.h5")
    return free


def with_places(tasks: Iterable[Task], settings: Preprocess, store: Store) -> list[Task]:
    """`tasks`, with the shard in `earlier/` that holds each video."""
    held = {}
    for path in _shards(store):
        for video_id in _stored(path, settings, store):
            held[video_id] = str(path)
    return [
        replace(task, videos=tuple(replace(video, held=held.get(video.video_id, "")) for video in task.videos))
        if held else task
        for task in tasks
    ]  # fmt: skip


def clear(tasks: Iterable[Task], settings: Preprocess, store: Store) -> None:
    """Remove the shards in `earlier/` whose videos are all in shards of `tasks`; warn of those that hold more."""
    paths = _shards(store)
    if not paths:
        return
    stored: set[str] = set()
    for task in tasks:
        stored.update(_stored(task.path, settings, store))
    for path in paths:
        more = sorted(set(_stored(path, settings, store)) - stored)
        if more:
            log.warning(
                "warning: %s holds %d videos that are in no other shard: %s. They are used again when their rows are "
                "back in a label file; delete this shard if you do not need them.", path, len(more), some(more),
            )  # fmt: skip
        else:
            path.unlink()
    folder = store.folder / _FOLDER
    if not any(folder.iterdir()):
        folder.rmdir()


def _shards(store: Store) -> list[Path]:
    return sorted((store.folder / _FOLDER).glob("*.h5"))


def _stored(path: Path, settings: Preprocess, store: Store) -> list[str]:
    """The videos whose frames a shard holds; none when it cannot be read or is of another recipe."""
    try:
        shard = store.shard(path)
    except ShardError:
        return []
    return shard.stored() if shard.recipe_sha256 == settings.fingerprint() else []
