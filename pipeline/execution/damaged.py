"""Damaged shards: made again to the byte where that can be proven, and otherwise left alone until a person decides.

The source files may be gone, so a shard may be the only copy of its videos.  It is damaged when its metadata or its
size differ from its seal (shards/checksum.py); its frames may be intact.
"""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.common.errors import FormatError, LossError, ShardError
from pipeline.common.files import replacing, sync_folder
from pipeline.common.locking import remove_temporary
from pipeline.common.outcome import OUTCOME_TYPES, Outcome
from pipeline.common.recipe import Preprocess
from pipeline.common.text import some
from pipeline.decoding.resample import kept_frames, steady_times
from pipeline.execution.plan import Task, is_there
from pipeline.shards.checksum import sealed_nbytes, tail
from pipeline.shards.salvage import Claim, Salvaged, salvage
from pipeline.shards.store import EARLIER, Store, shards_in
from pipeline.shards.writer import ShardWriter

_KEPT = "damaged"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)
_SAME_S = 0.02  # times closer to those of the mean rate than this may be them

log = logging.getLogger(__name__)


def rescue(
    tasks: list[Task], ledgers: dict[str, pd.DataFrame], settings: Preprocess, store: Store, *, accept_loss: bool
) -> tuple[list[Task], dict[Path, LossError]]:
    """Restore damaged shards, and find those that must not be written because videos would be lost by it.

    A shard is restored when a new one of what is in it and in the ledgers has the same seal.  Otherwise its videos are
    decoded again.  Where one has no file, nothing is changed; with `accept_loss` the videos whose frames are intact are
    copied to `earlier/`, from where the tasks take them.

    Args:
        tasks: the plan.
        ledgers: by split.
        settings: the recipe.
        store: its shards; it must be locked.
        accept_loss: write shards without the videos that would be lost.

    Returns:
        The tasks; and why some of them must not be written, by path.

    Raises:
        FormatError: a shard is of another format.
        OSError: a shard cannot be read now.
    """
    remove_temporary(store.folder / EARLIER)
    by_path = {task.path: replace(task, accept_loss=accept_loss) for task in tasks}
    blocked: dict[str, LossError] = {}
    refused: dict[Path, LossError] = {}
    broken = list(_damaged(store))
    stored = _stored(store, settings) if broken else set()
    for path, why in broken:
        task = by_path.get(path)
        claims = _claims(path, ledgers, task)
        if task and _restore(task, claims, ledgers[task.split], settings, store):
            log.warning("warning: %s: %s. It was restored: its frames, the ledger and its checksum agree.", path, why)
            stored.update(claim.video_id for claim in claims)
            continue
        planned = {video.video_id for video in task.videos} if task else set()
        candidates = {claim.video_id for claim in claims}
        if path.stat().st_size and (not claims or (sealed_nbytes(path) or 0) > sum(claim.nbytes for claim in claims)):
            candidates |= planned
        gone = _without_file(candidates - stored, tasks, settings)
        if gone and not accept_loss:
            error = would_lose(path, gone, settings, why)
            blocked.update(dict.fromkeys(gone, error))
            if task:
                refused[path] = error
            continue
        if gone:
            keep(path)
            lost = [claim for claim in claims if claim.video_id in gone]
            stored |= _copy_intact(path, lost, claims, ledgers, settings, store)
        if task and candidates <= planned:
            by_path[path] = replace(by_path[path], doubtful=frozenset(candidates))
        elif path.parent == store.folder:  # other shards take its videos, so no task can tell whether all are stored
            keep(path)
            path.unlink()
    for path, task in by_path.items():
        for video_id in sorted({video.video_id for video in task.videos} & blocked.keys()):
            refused.setdefault(path, blocked[video_id])
    return list(by_path.values()), refused


def would_lose(path: Path, video_ids: Collection[str], settings: Preprocess, why: str) -> LossError:
    """The error for a shard that is not written, because some of its videos would be lost."""
    what = (
        f"{why}, and {len(video_ids):,} of its videos may be lost when it is written again: they cannot be read from "
        f"it for certain, or decoded from {settings.data_root}: {some(sorted(video_ids))}. Nothing of it was changed"
    )
    action = (
        "give the folder with their files (make: DATA=DIR), or write it with all that is intact and without the rest: "
        f"ARGS=--accept-loss, which keeps the file of today in {path.parent / _KEPT}"
    )
    return LossError(path, what, action)


def keep(path: Path) -> Path:
    """Give a file a second name in the folder `damaged/` beside it, which nothing removes; returns that name.

    Raises:
        OSError: it cannot be made.
    """
    folder = path.parent / _KEPT
    folder.mkdir(exist_ok=True)
    for kept in shards_in(folder):  # of a run that was killed after this
        if kept.samefile(path) or filecmp.cmp(kept, path, shallow=False):
            return kept
    kept = free(folder / path.name)
    try:
        os.link(path, kept)  # never replaces a file
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
    sync_folder(folder)
    sync_folder(path.parent)
    log.warning("warning: %s: the file before the loss is kept as %s", path, kept)
    return kept


def free(path: Path) -> Path:
    """`path`, or with a number in its name when that file exists."""
    unused, number = path, 1
    while os.path.lexists(unused):
        number += 1
        unused = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return unused


def remind_of_kept(store: Store) -> None:
    """Name the files in `damaged/`."""
    kept = shards_in(store.folder / _KEPT)
    if kept:
        log.warning(
            "warning: %s holds %d damaged files with videos that may be in no other shard: %s. Delete them if you do "
            "not need them.", store.folder / _KEPT, len(kept), some(path.name for path in kept),
        )  # fmt: skip


def _damaged(store: Store) -> Iterator[tuple[Path, str]]:
    """The damaged shards of a store and of its earlier plans, and what is wrong with each."""
    earlier = shards_in(store.folder / EARLIER)
    for path in [*store.paths(), *earlier]:
        try:
            store.shard(path)
        except FormatError:
            if path not in earlier:  # those are left alone
                raise
        except ShardError as error:
            yield path, error.what


def _stored(store: Store, settings: Preprocess) -> set[str]:
    """The videos in all shards that can be read."""
    stored: set[str] = set()
    for path in [*store.paths(), *shards_in(store.folder / EARLIER)]:
        try:
            shard = store.shard(path)
        except ShardError:
            continue
        if shard.recipe_sha256 == settings.fingerprint():
            stored.update(shard.stored())
    return stored


def _without_file(video_ids: set[str], tasks: list[Task], settings: Preprocess) -> set[str]:
    """Those of some videos whose file is not on disk."""
    root = Path(settings.data_root)
    videos = (video for task in tasks for video in task.videos if video.video_id in video_ids)
    return video_ids - {video.video_id for video in videos if is_there(video, root)}


def _claims(path: Path, ledgers: dict[str, pd.DataFrame], task: Task | None) -> list[Claim]:
    """What the ledgers know of the videos in a shard, in its order where it is planned."""
    name = f"{path.name.split('.')[0]}.h5"  # in `earlier/`, a number may follow
    claims = {}
    for table in ledgers.values():
        rows = table[table["status"].eq("ok") & table["shard"].eq(name)]
        columns = (rows[field].tolist() for field in Claim._fields)
        claims.update({row[0]: Claim(*row) for row in zip(*columns, strict=True)})
    order = [video.video_id for video in task.videos] if task else []
    return [claims[key] for key in (*(key for key in order if key in claims), *sorted(claims.keys() - set(order)))]


def _outcomes(video_ids: Collection[str], table: pd.DataFrame) -> dict[str, Outcome]:
    """The outcomes of some videos by the rows of their ledger."""
    rows = table[table["video_id"].isin(video_ids)]
    columns = (rows[name].tolist() for name in OUTCOME_TYPES)
    outcomes = (Outcome(**dict(zip(OUTCOME_TYPES, row, strict=True))) for row in zip(*columns, strict=True))
    return {outcome.video_id: outcome for outcome in outcomes}


def _salvage(path: Path, claims: list[Claim], settings: Preprocess) -> dict[str, Salvaged]:
    return salvage(path, claims, (*settings.frame_size, 3), jpeg=settings.codec == "jpeg")


def _mean_times(outcome: Outcome, settings: Preprocess) -> NDArray[np.float32]:
    """The times of a video's stored frames by its mean rate."""
    if outcome.source_frames > 0 and outcome.source_fps > 0:
        frames, _ = kept_frames(outcome.source_frames, outcome.source_fps, settings.fps)
        if len(frames) == outcome.num_frames:
            return steady_times(frames, outcome.source_fps)
    return steady_times(np.arange(outcome.num_frames), outcome.fps)


def _restore(task: Task, claims: list[Claim], table: pd.DataFrame, settings: Preprocess, store: Store) -> bool:
    """Make a damaged shard again from its frames and its ledger; whether it was proven and has replaced the file.

    The proof is the seal, a checksum of all but the frames.  It is that of the file before it was damaged.
    """
    seal = tail(task.path)
    outcomes = _outcomes([video.video_id for video in task.videos], table)
    stored = {claim.video_id for claim in claims}
    if not seal or not claims or not stored <= outcomes.keys():
        return False
    videos = _salvage(task.path, claims, settings)
    if stored - videos.keys():
        return False
    mean = {video_id: _mean_times(outcomes[video_id], settings) for video_id in stored}
    found = {key: video.encoded.times_s if len(video.encoded.times_s) else mean[key] for key, video in videos.items()}
    steady = {key: mean[key] if np.allclose(times, mean[key], 0, _SAME_S) else times for key, times in found.items()}
    tries = [found] if all(np.array_equal(found[key], steady[key]) for key in found) else [found, steady]
    copy = task.path.with_name(f".{task.path.name}.restored.tmp")
    for times in tries:
        with ShardWriter(copy, settings, task.split) as writer:
            for video in task.videos:
                outcome = outcomes[video.video_id]
                if video.video_id in stored:
                    writer.add(outcome, videos[video.video_id].encoded._replace(times_s=times[video.video_id]))
                elif outcome.status in ("ok", "missing", "pending", "retry"):
                    writer.add(Outcome(video_id=video.video_id, status="missing"))
                else:
                    writer.add(outcome)
        if tail(copy) == seal:
            os.replace(copy, task.path)
            sync_folder(task.path.parent)
            store.add(writer.shard)
            return True
        copy.unlink()
    return False


def _copy_intact(
    path: Path,
    lost: list[Claim],
    claims: list[Claim],
    ledgers: dict[str, pd.DataFrame],
    settings: Preprocess,
    store: Store,
) -> set[str]:
    """Copy those of some videos of a damaged shard whose frames are intact to `earlier/`; returns them.

    Args:
        path: the shard.
        lost: the videos.
        claims: all that the shard may hold, in its order.
        ledgers: by split.
        settings: the recipe.
        store: its shards.
    """
    videos = {key: video for key, video in _salvage(path, claims, settings).items() if video.intact}
    copied: set[str] = set()
    unknown = []
    folder = store.folder / EARLIER
    for split, table in ledgers.items():
        outcomes = _outcomes(videos.keys() & {claim.video_id for claim in lost}, table)
        if not outcomes:
            continue
        folder.mkdir(exist_ok=True)
        with ShardWriter(free(folder / path.name), settings, split) as writer:
            for claim in claims:
                if (outcome := outcomes.get(claim.video_id)) is not None:
                    encoded = videos[claim.video_id].encoded
                    if not len(encoded.times_s):
                        unknown.append(claim.video_id)
                        encoded = encoded._replace(times_s=_mean_times(outcome, settings))
                    writer.add(outcome, encoded)
        store.add(writer.shard)
        sync_folder(store.folder)
        copied.update(outcomes)
    log.warning("warning: %s: %d of the %d videos are intact and were copied from it", path, len(copied), len(lost))
    if unknown:
        log.warning("warning: %s: the times of frames are lost and now those of the mean rate: %s", path, some(unknown))
    return copied
