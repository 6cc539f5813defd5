"""The task that writes one shard: what is stored already is copied, the rest is decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.common.errors import ShardError
from pipeline.common.outcome import OUTCOME_TYPES, Outcome
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder
from pipeline.execution.plan import PlannedVideo, Task, is_there
from pipeline.shards.encoding import Encoded
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import read_outcomes
from pipeline.shards.writer import ShardWriter


def write_shard(task: Task, settings: Preprocess, decoder: Decoder, done: Callable[[Outcome], None]) -> None:
    """Bring the videos of a task into its shard; what an earlier shard of that name holds undamaged is copied.

    Args:
        task: the shard.
        settings: the recipe.
        decoder: where its videos are decoded.
        done: called with the outcome of each video that is through.
    """
    root = Path(settings.data_root)
    with _EarlierCopies(task.path, settings) as stored, ShardWriter(task.path, settings, task.split) as writer:
        there = [is_there(video, root) for video in task.videos]
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


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Copy(NamedTuple):
    """Where to copy a video from."""

    outcome: Outcome
    reader: ShardReader


class _EarlierCopies:
    """Shards that may have a task's videos already: the earlier one of its name, and those of an earlier plan."""

    def __init__(self, path: Path, settings: Preprocess) -> None:
        self._path, self._settings = path, settings
        self._shards: dict[Path, tuple[ShardReader, dict[str, Outcome]] | None] = {}

    def find(self, video: PlannedVideo, *, there: bool) -> _Copy | None:
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

    def __enter__(self) -> _EarlierCopies:
        return self

    def __exit__(self, *error: object) -> None:
        for shard in self._shards.values():
            if shard is not None:
                shard[0].close()
