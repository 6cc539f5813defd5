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
from typing import NamedTuple

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
from pipeline.ledger.schema import WAITING_STATUSES
from pipeline.shards.checksum import sealed_nbytes, tail
from pipeline.shards.own_tables import own_tables
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
        known = _by_ledger(path, ledgers, task)
        restored = _restore(path, known, settings, store)
        if not restored and (tail(path) or not known.claims):
            by_itself = _by_itself(path, settings)
            restored = _restore(path, by_itself, settings, store)
            known = known if known.claims else by_itself
        if restored:
            log.warning("warning: %s: %s. It was restored: its checksum is the one that it had.", path, why)
            stored.update(store.shard(path).stored())
            continue
        claims = known.claims
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
            else:
                log.warning("warning: %s", error)
            continue
        if gone:
            keep(path)
            stored |= _copy_intact(path, known, gone, settings, store)
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
        "give the folder with their files (make: DATA=DIR), or add --accept-loss to this command (make: to its ARGS), "
        f"which writes all that is intact and keeps the file of today in {path.parent / _KEPT}"
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


class _Known(NamedTuple):
    """What a ledger or a damaged shard itself says of the videos in it.

    Attributes:
        outcomes: of all its videos, in its order; those that are not stored may be missing where it is not planned.
        claims: its stored videos, in the same order.
    """

    outcomes: list[Outcome]
    claims: list[Claim]


def _by_ledger(path: Path, ledgers: dict[str, pd.DataFrame], task: Task | None) -> _Known:
    """What the ledgers know of a shard."""
    name = f"{path.name.split('.')[0]}.h5"  # in `earlier/`, a number may follow
    claims: dict[str, Claim] = {}
    outcomes: dict[str, Outcome] = {}
    planned = [video.video_id for video in task.videos] if task else []
    for table in ledgers.values():
        own = table["status"].eq("ok") & table["shard"].eq(name)
        columns = (table[field][own].tolist() for field in Claim._fields)
        claims.update({row[0]: Claim(*row) for row in zip(*columns, strict=True)})
        rows = table[own | table["video_id"].isin(planned)]
        columns = (rows[field].tolist() for field in OUTCOME_TYPES)
        for row in zip(*columns, strict=True):
            outcome = Outcome(**dict(zip(OUTCOME_TYPES, row, strict=True)))
            if outcome.video_id not in claims and outcome.status in ("ok", "missing", *WAITING_STATUSES):
                outcome = Outcome(video_id=outcome.video_id, status="missing")
            outcomes[outcome.video_id] = outcome
    order = [*planned, *sorted(claims.keys() - set(planned))]
    return _Known([outcomes[key] for key in order], [claims[key] for key in order if key in claims])


def _by_itself(path: Path, settings: Preprocess) -> _Known:
    """What a damaged shard says of itself, if it is of this recipe."""
    tables = own_tables(path)
    if tables is None or tables.recipe != settings.to_json():
        return _Known([], [])
    stored = {outcome.video_id for outcome in tables.outcomes if outcome.status == "ok"}
    return _Known(tables.outcomes, [claim for claim in tables.claims if claim.video_id in stored])


def _salvage(path: Path, claims: list[Claim], settings: Preprocess) -> dict[str, Salvaged]:
    return salvage(path, claims, (*settings.frame_size, 3), jpeg=settings.codec == "jpeg")


def _mean_times(outcome: Outcome, settings: Preprocess) -> NDArray[np.float32]:
    """The times of a video's stored frames by its mean rate."""
    if outcome.source_frames > 0 and outcome.source_fps > 0 and outcome.chosen_by != "time":
        frames, _ = kept_frames(outcome.source_frames, outcome.source_fps, settings.fps)
        if len(frames) == outcome.num_frames:
            return steady_times(frames, outcome.source_fps)
    return steady_times(np.arange(outcome.num_frames), outcome.fps)


def _restore(path: Path, known: _Known, settings: Preprocess, store: Store) -> bool:
    """Make a damaged shard again from its frames and what is known of it; whether it was proven and took its place.

    The proof is the seal, a checksum of all but the frames.  It is that of the file before it was damaged.
    """
    seal = tail(path)
    if not seal or not known.claims:
        return False
    videos = _salvage(path, known.claims, settings)
    outcomes = {outcome.video_id: outcome for outcome in known.outcomes}
    if len(videos) < len(known.claims) or len(outcomes) < len(known.outcomes):
        return False
    mean = {video_id: _mean_times(outcomes[video_id], settings) for video_id in videos}
    found = {key: video.encoded.times_s if len(video.encoded.times_s) else mean[key] for key, video in videos.items()}
    steady = {key: mean[key] if np.allclose(times, mean[key], 0, _SAME_S) else times for key, times in found.items()}
    tries = [found] if all(np.array_equal(found[key], steady[key]) for key in found) else [found, steady]
    copy = path.with_name(f".{path.name}.restored.tmp")
    for times in tries:
        with ShardWriter(copy, settings, path.name.split("-")[0]) as writer:
            for video_id, outcome in outcomes.items():
                video = videos.get(video_id)
                writer.add(outcome, video.encoded._replace(times_s=times[video_id]) if video else None)
        if tail(copy) == seal:
            os.replace(copy, path)
            sync_folder(path.parent)
            store.add(writer.shard)
            return True
        copy.unlink()
    return False


def _copy_intact(path: Path, known: _Known, gone: set[str], settings: Preprocess, store: Store) -> set[str]:
    """Copy those of some videos of a damaged shard whose frames are intact to `earlier/`; returns them."""
    videos = {key: video.encoded for key, video in _salvage(path, known.claims, settings).items() if video.intact}
    outcomes = [outcome for outcome in known.outcomes if outcome.video_id in videos.keys() & gone]
    log.warning("warning: %s: the frames of %d of %d videos are intact and are copied", path, len(outcomes), len(gone))
    if not outcomes:
        return set()
    folder = store.folder / EARLIER
    folder.mkdir(exist_ok=True)
    unknown = []
    with ShardWriter(free(folder / path.name), settings, path.name.split("-")[0]) as writer:
        for outcome in outcomes:
            encoded = videos[outcome.video_id]
            if not len(encoded.times_s):
                unknown.append(outcome.video_id)
                encoded = encoded._replace(times_s=_mean_times(outcome, settings))
            writer.add(outcome, encoded)
    store.add(writer.shard)
    sync_folder(store.folder)
    if unknown:
        log.warning("warning: %s: the times of frames are lost and now those of the mean rate: %s", path, some(unknown))
    return {outcome.video_id for outcome in outcomes}
