"""Which videos go into which shard, and the task that writes one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import recipe, shards
from pipeline.encoding import Encoded
from pipeline.isolate import Decoder
from pipeline.learned import RETRY
from pipeline.recipe import SPLITS, Preprocess
from pipeline.seal import FormatError
from pipeline.settings import UserError
from pipeline.shard_reader import ShardReader
from pipeline.shards import Outcome, ShardError, ShardWriter


@dataclass(frozen=True)
class Planned:
    """One row of a ledger, as far as its shard needs to know it."""

    video_id: str
    label_id: int
    path: str  # relative to data_root; empty when the file is missing
    retry: bool = False  # a bad video that `make manifests` marked to be decoded again


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
        Planned(str(video_id), int(label_id), str(path), str(reason).startswith(RETRY))
        for video_id, label_id, path, reason in zip(
            table["video_id"], table["label_id"], table["path"], table["reason"], strict=True
        )
    ]
    size = settings.videos_per_shard
    count = -(-len(rows) // size)
    return [
        Task(
            path=Path(settings.store) / shards.shard_name(split, number, count),
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
            theirs = shards.read_account(path).recipe
        except FormatError:
            raise
        except ShardError:
            continue  # damaged; the next one tells
        if theirs != settings.to_json():
            raise UserError(
                f"{path}: this store has another recipe ({recipe.differences(settings.to_json(), theirs)}); "
                "use its settings, or another STORE=DIR"
            )
        return


def is_finished(task: Task, settings: Preprocess) -> bool:
    """Whether a shard is there, whole, of this recipe and plan, and has no video left to be decoded (again).

    Raises:
        UserError: it is of another recipe or format; nothing is overwritten.
    """
    if not task.path.is_file():
        return False
    try:
        account = shards.read_account(task.path)
    except FormatError:
        raise
    except ShardError:
        return False
    if account.recipe_sha256 != settings.fingerprint():
        check_recipe(task.path.parent, settings)
        return False
    outcomes = account.outcomes
    if outcomes["video_id"].tolist() != [video.video_id for video in task.videos]:
        return False
    if any(video.retry for video in task.videos):
        return False
    missing = set(outcomes["video_id"][outcomes["status"] == "missing"])
    root = Path(settings.data_root)
    return not any(video.path and video.video_id in missing and (root / video.path).exists() for video in task.videos)


def write_shard(task: Task, settings: Preprocess, decoder: Decoder, done: Callable[[Outcome], None]) -> None:
    """Bring the videos of a task into its shard; what an earlier shard of that name holds undamaged is copied.

    Args:
        task: the shard.
        settings: the recipe.
        decoder: where its videos are decoded.
        done: called with the outcome of each video that is through.
    """
    root = Path(settings.data_root)
    with _earlier(task, settings) as earlier, ShardWriter(task.path, settings, task.split) as writer:
        there = [_is_there(video, root) for video in task.videos]
        copied = [earlier.find(video, there=found) for video, found in zip(task.videos, there, strict=True)]
        decoded = decoder.decode(
            root / video.path
            for video, found, copy in zip(task.videos, there, copied, strict=True)
            if found and copy is None
        )
        for video, found, copy in zip(task.videos, there, copied, strict=True):
            encoded: Encoded | None = None
            if copy is not None:
                outcome, encoded = copy, earlier.read(copy)
            elif not found:
                outcome = Outcome(video.video_id, "missing")
            else:
                result = next(decoded)
                encoded = result.encoded
                # The size of a bad file tells a rebuild when there is another one in its place.
                facts = {"source_bytes": _size_bytes(root / video.path), **result.facts}
                num_frames = encoded.num_frames if encoded else 0
                outcome = Outcome(video.video_id, result.status, result.reason, num_frames=num_frames, **facts)
            writer.add_encoded(outcome, video.label_id, encoded)
            done(outcome)


def _is_there(video: Planned, root: Path) -> bool:
    return bool(video.path) and (root / video.path).exists()


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Earlier:
    """An earlier shard of the same name and recipe, or nothing."""

    def __init__(self, path: Path, settings: Preprocess) -> None:
        self._root = Path(settings.data_root)
        self._reader: ShardReader | None = None
        self._outcomes: dict[str, Outcome] = {}
        try:
            reader = ShardReader(path)
            if reader.recipe_sha256 == settings.fingerprint():
                rows = shards.read_outcomes(path)[list(Outcome._fields)].itertuples(index=False, name=None)
                self._outcomes = {row[0]: Outcome(*row) for row in rows}
                self._reader = reader
        except ShardError:
            return  # not there, or damaged: everything is decoded

    def find(self, video: Planned, *, there: bool) -> Outcome | None:
        """The outcome to keep: the video is stored, undamaged, and its file has not changed since."""
        outcome = self._outcomes.get(video.video_id)
        if outcome is None or outcome.status != "ok" or self._reader is None:
            return None
        if there and (self._root / video.path).stat().st_size != outcome.source_bytes:
            return None
        try:
            self._reader.verify(self._reader.row_of(video.video_id))
        except ShardError:
            return None
        return outcome

    def read(self, outcome: Outcome) -> Encoded:
        """The bytes of a video that `find` has found."""
        assert self._reader is not None
        return self._reader.encoded(self._reader.row_of(outcome.video_id))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


@contextlib.contextmanager
def _earlier(task: Task, settings: Preprocess) -> Iterator[_Earlier]:
    earlier = _Earlier(task.path, settings)
    try:
        yield earlier
    finally:
        earlier.close()
