"""Shards of an earlier plan: moved aside, copied from, and removed when the new shards hold all of their videos.

The shard of a video depends on all rows of its split, so one more row in a label file moves most videos.  Decoded
videos are not decoded again for that, and are not lost when their source is: `<store>/earlier/` keeps the old shards
until their videos are copied.  The disk needs room for both.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.common.errors import FormatError, LossError, ShardError
from pipeline.common.files import sync_folder
from pipeline.common.recipe import Preprocess
from pipeline.common.text import some
from pipeline.execution.damaged import free
from pipeline.execution.plan import Task, check_same_recipe
from pipeline.shards.store import EARLIER, Shard, Store, shards_in

log = logging.getLogger(__name__)


def arrange(
    tasks: list[Task],
    settings: Preprocess,
    store: Store,
    refused: dict[Path, LossError],
    only: Collection[str] | None = None,
) -> list[Task]:
    """Move shards that hold other videos than planned to `earlier/`, and find the videos there.

    Args:
        tasks: the plan.
        settings: the recipe.
        store: its shards.
        refused: damaged shards that must not be written.
        only: names of the shards to look at; None: all.

    Returns:
        The tasks, with the shards in `earlier/` that hold each video.

    Raises:
        UserError: a shard is of another recipe or format; no shard is moved then.
        LossError: shards would be moved, and some are in `refused`; no shard is moved then.
    """
    moving = _displaced(tasks, settings, store, only)
    if moving and refused:  # the place of their videos changes, and with it what their files may hold
        raise next(iter(refused.values()))
    _set_aside(moving, store)
    return _with_places(tasks, settings, store)


def _displaced(tasks: Iterable[Task], settings: Preprocess, store: Store, only: Collection[str] | None) -> list[Path]:
    """Shards that hold other videos than planned, except for those without any stored video."""
    planned = {task.path.name: [video.video_id for video in task.videos] for task in tasks}
    paths = []
    for path in store.paths():
        if only is not None and path.name not in only:
            continue
        try:
            shard = store.shard(path)
        except FormatError:
            raise
        except ShardError:  # corrupted: damaged.rescue has seen it
            continue
        check_same_recipe(shard, settings)
        if shard.planned() != planned.get(path.name) and shard.stored():
            paths.append(path)
    return paths


def _set_aside(moving: Sequence[Path], store: Store) -> None:
    """Move shards of a store to `earlier/`."""
    if not moving:
        return
    folder = store.folder / EARLIER
    folder.mkdir(exist_ok=True)
    for path in moving:
        os.replace(path, free(folder / path.name))
    sync_folder(folder)
    sync_folder(store.folder)
    log.info(
        "Label files changed, so videos move to other shards. Existing videos are copied, not decoded again. "
        "The %d old shards stay in %s until then.", len(moving), folder,
    )  # fmt: skip


def _with_places(tasks: Iterable[Task], settings: Preprocess, store: Store) -> list[Task]:
    """`tasks`, with the shards in `earlier/` that hold each video."""
    held: dict[str, tuple[str, ...]] = {}
    for path in shards_in(store.folder / EARLIER):
        shard = _readable(path, settings, store)
        for video_id in shard.stored() if shard else ():
            held[video_id] = (*held.get(video_id, ()), str(path))
    return [
        replace(task, videos=tuple(replace(video, held=held.get(video.video_id, ())) for video in task.videos))
        if held else task
        for task in tasks
    ]  # fmt: skip


def clear(tasks: Iterable[Task], settings: Preprocess, store: Store) -> None:
    """Remove the shards in `earlier/` whose videos are all intact in shards of `tasks`; warn of the others."""
    folder = store.folder / EARLIER
    paths = shards_in(folder)
    if not paths:
        return
    shards = [_readable(task.path, settings, store) for task in tasks]
    place = {video_id: shard for shard in shards if shard for video_id in shard.stored()}
    for path in paths:
        old = _readable(path, settings, store)
        if old is None:
            log.warning(
                "warning: %s cannot be used, because it is damaged or of another recipe. Its videos may be in no other "
                "shard, so it is kept. Delete it if you do not need it.", path,
            )  # fmt: skip
        elif more := sorted(set(old.stored()) - place.keys()):
            log.warning(
                "warning: %s holds %d videos that are in no other shard: %s. They are used again when their rows are "
                "back in a label file; delete this shard if you do not need them.", path, len(more), some(more),
            )  # fmt: skip
        elif unproven := _unproven(old.stored(), place):
            log.warning("warning: %s is kept, because its copies are corrupted: %s. Run `make verify ARGS=--repair`.",
                        path, some(unproven))  # fmt: skip
        else:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _unproven(video_ids: Iterable[str], place: dict[str, Shard]) -> list[str]:
    """Videos whose frames differ from their CRC-32 in the shards that hold them now."""
    by_shard: dict[Path, tuple[Shard, list[str]]] = {}
    for video_id in video_ids:
        by_shard.setdefault(place[video_id].path, (place[video_id], []))[1].append(video_id)
    corrupted = []
    for shard, ids in by_shard.values():
        with contextlib.closing(shard.reader()) as reader:
            for video_id in ids:
                try:
                    reader.verify(reader.row_of(video_id))
                except ShardError:
                    corrupted.append(video_id)
    return corrupted


def _readable(path: Path, settings: Preprocess, store: Store) -> Shard | None:
    """A shard; None when it is missing, damaged or of another recipe.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        shard = store.shard(path)
    except ShardError:
        return None
    return shard if shard.recipe_sha256 == settings.fingerprint() else None
