"""Which videos go into which shard, and the task that writes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.common import recipe
from pipeline.common.errors import FormatError, ShardError, UserError
from pipeline.common.outcome import OUTCOME_TYPES, Outcome
from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.decoding.process import Decoder
from pipeline.shards.encoding import Encoded
from pipeline.shards.format import shard_name
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import Account, read_account, read_outcomes
from pipeline.shards.writer import ShardWriter


@dataclass(frozen=True)
class Planned:
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
    videos: tuple[Planned, ...]


def plan(table: pd.DataFrame, settings: Preprocess, split: str) -> list[Task]:
    """Which videos each shard of a split holds.

    A permutation of all rows, seeded, spreads the classes over the shards; it does not look at what is on disk, so a
    video that is downloaded later goes where it would always have gone.
    """
    order = np.random.default_rng([settings.seed, SPLITS.index(split)]).permutation(len(table))
    rows = [
        Planned(str(video_id), str(path), status == "retry")
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
    return not any(video.video_id in missing and (video.held or _is_there(video, root)) for video in task.videos)


def write_shard(task: Task, settings: Preprocess, decoder: Decoder, done: Callable[[Outcome], None]) -> None:
    """Bring the videos of a task into its shard; what an earlier shard of that name holds undamaged is copied.

    Args:
        task: the shard.
        settings: the recipe.
        decoder: where its videos are decoded.
        done: called with the outcome of each video that is through.
    """
    root = Path(settings.data_root)
    with _Stored(task.path, settings) as stored, ShardWriter(task.path, settings, task.split) as writer:
        there = [_is_there(video, root) for video in task.videos]
        copied = [stored.find(video, there=found) for video, found in zip(task.videos, there, strict=True)]
        decoded = decoder.decode(
            root / video.path
            for video, found, copy in zip(task.videos, there, copied, strict=True)
            if found and copy is None
        )
        for video, found, copy in zip(task.videos, there, copied, strict=True):
            encoded: Encoded | None = None
            if copy is not None:
                outcome, encoded = copy.outcome, copy.reader.encoded(copy.reader.row_of(video.video_id))
            elif not found:
                outcome = Outcome(video_id=video.video_id, status="missing")
            else:
                result = next(decoded)
                encoded = result.encoded
                # The size of a bad file tells a rebuild when there is another one in its place.
                facts = {"source_bytes": _size_bytes(root / video.path), **result.facts}
                num_frames = encoded.num_frames if encoded else 0
                outcome = Outcome(
                    video_id=video.video_id, status=result.status, reason=result.reason, num_frames=num_frames, **facts
                )
            writer.add(outcome, encoded)
            done(outcome)


def _is_there(video: Planned, root: Path) -> bool:
    return bool(video.path) and (root / video.path).exists()


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Copy(NamedTuple):
    """Where to copy a video from."""

    outcome: Outcome
    reader: ShardReader


class _Stored:
    """Shards that may have a task's videos already: the earlier one of its name, and those of an earlier plan."""

    def __init__(self, path: Path, settings: Preprocess) -> None:
        self._path, self._settings = path, settings
        self._shards: dict[Path, tuple[ShardReader, dict[str, Outcome]] | None] = {}

    def find(self, video: Planned, *, there: bool) -> _Copy | None:
        """What to copy: the video is stored, undamaged, and its file has not changed since."""
        for path in (self._path, *([Path(video.held)] if video.held else [])):
            shard = self._open(path)
            if shard is None:
                continue
            reader, outcomes = shard
            outcome = outcomes.get(video.video_id)
            if outcome is None or outcome.status != "ok":
                continue
            source = Path(self._settings.data_root) / video.path
            if there and source.stat().st_size != outcome.source_bytes:
                continue
            try:
                reader.verify(reader.row_of(video.video_id))
            except ShardError:
                continue
            return _Copy(outcome, reader)
        return None

    def _open(self, path: Path) -> tuple[ShardReader, dict[str, Outcome]] | None:
        """A shard's frames and outcomes; None when it is not there, damaged or of another recipe."""
        if path not in self._shards:
            try:
                reader = ShardReader(path)
                rows = read_outcomes(path)[list(OUTCOME_TYPES)].to_dict("records")
                same = reader.recipe_sha256 == self._settings.fingerprint()
                self._shards[path] = (reader, {row["video_id"]: Outcome(**row) for row in rows}) if same else None
            except ShardError:
                self._shards[path] = None  # everything is decoded
        return self._shards[path]

    def __enter__(self) -> _Stored:
        return self

    def __exit__(self, *error: object) -> None:
        for shard in self._shards.values():
            if shard is not None:
                shard[0].close()
