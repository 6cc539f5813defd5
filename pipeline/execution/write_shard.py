"""The task that writes one shard: videos that are stored already are copied, the others are decoded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.common.errors import ShardError
from pipeline.common.outcome import OUTCOME_TYPES, Outcome
from pipeline.common.recipe import Preprocess
from pipeline.common.text import some
from pipeline.decoding.process import Decoder, DecodeResult
from pipeline.execution.damaged import keep, would_lose
from pipeline.execution.plan import PlannedVideo, Task, check_folder, is_there
from pipeline.ledger.schema import BAD_STATUSES
from pipeline.shards.encoding import Encoded
from pipeline.shards.reader import ShardReader
from pipeline.shards.store import Store
from pipeline.shards.writer import ShardWriter

log = logging.getLogger(__name__)

_GONE = DecodeResult("missing", "", {})


def write_shard(
    task: Task, settings: Preprocess, store: Store, decoder: Decoder, done: Callable[[Outcome], None]
) -> None:
    """Write the videos of a task into its shard; those that an earlier shard holds intact are copied.

    Args:
        task: the shard.
        settings: the recipe.
        store: the shards there are; the new one is added.
        decoder: where its videos are decoded.
        done: called with the outcome of each finished video.

    Raises:
        LossError: videos would be lost that the file of its name, or an earlier shard, may hold; nothing was changed.
        OSError: the disk is full or fails.
        MachineError: the videos are away, or cannot be read; the shard is not written.
        DecoderStopped: the run is being stopped.
    """
    root = Path(settings.data_root)
    with _EarlierCopies(task.path, settings, store) as copies, ShardWriter(task.path, settings, task.split) as writer:
        present = [is_there(video, root) for video in task.videos]
        copied = [copies.find(video, present=here) for video, here in zip(task.videos, present, strict=True)]
        decoded = decoder.decode(
            root / video.path
            for video, here, copy in zip(task.videos, present, copied, strict=True)
            if here and copy is None
        )
        stored = set()
        for video, here, copy in zip(task.videos, present, copied, strict=True):
            encoded: Encoded | None = None
            if copy is not None:
                outcome, encoded = copy.outcome, copy.reader.encoded(copy.reader.row_of(video.video_id))
            else:
                result = next(decoded) if here else _GONE
                if not here or (result.status == "io" and not is_there(video, root)):  # deleted; or unmounted, or moved
                    check_folder(video, root)
                    result = _GONE
                encoded = result.encoded
                # By the size of a bad file a rebuild notices that another one has taken its place.
                nbytes = {"source_bytes": _size_bytes(root / video.path)} if result.status in BAD_STATUSES else {}
                facts = {**nbytes, **result.facts}
                num_frames = encoded.num_frames if encoded else 0
                outcome = Outcome(
                    video_id=video.video_id, status=result.status, reason=result.reason, num_frames=num_frames, **facts
                )
                if encoded is None and (copy := copies.find(video, present=False)) is not None:
                    log.warning("warning: %s: its file changed and is bad now (%s); the frames stored before are kept",
                                video.video_id, outcome.reason or outcome.status)  # fmt: skip
                    outcome, encoded = copy.outcome, copy.reader.encoded(copy.reader.row_of(video.video_id))
            stored |= {video.video_id} if encoded is not None else set()
            writer.add(outcome, encoded)
            done(outcome)
        if lost := (task.doubtful | copies.claimed(task.videos)) - stored:
            if not task.accept_loss:
                raise would_lose(task.path, lost, settings, "it is corrupted")
            log.warning("warning: %s: videos are lost: %s", task.path, some(sorted(lost)))
            if task.path.exists():
                keep(task.path)
    store.add(writer.shard)


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

    def __init__(self, path: Path, settings: Preprocess, store: Store) -> None:
        self._path, self._settings, self._store = path, settings, store
        self._shards: dict[Path, tuple[ShardReader, dict[str, Outcome]] | None] = {}

    def find(self, video: PlannedVideo, *, present: bool) -> _Copy | None:
        """A stored video that is intact, and whose file, if it is `present`, has not changed since."""
        for path in (self._path, *map(Path, video.held)):
            shard = self._open(path)
            if shard is None:
                continue
            reader, outcomes = shard
            outcome = outcomes.get(video.video_id)
            if outcome is None or outcome.status != "ok":
                continue
            source = Path(self._settings.data_root) / video.path
            with contextlib.suppress(PermissionError):  # what is stored stays while its file may not be read
                if present and source.stat().st_size != outcome.source_bytes:
                    continue
            try:
                reader.verify(reader.row_of(video.video_id))
            except ShardError:
                continue
            return _Copy(outcome, reader)
        return None

    def claimed(self, videos: Iterable[PlannedVideo]) -> set[str]:
        """Videos that an earlier shard has by its tables: all of the one of this name, and `videos` in the others."""
        claims = {video.video_id: [self._open(Path(path)) for path in video.held] for video in videos}
        claimed = {
            video_id
            for video_id, shards in claims.items()
            for shard in shards
            if shard is not None and video_id in shard[1] and shard[1][video_id].status == "ok"
        }
        own = self._open(self._path)
        return claimed | ({key for key, outcome in own[1].items() if outcome.status == "ok"} if own else set())

    def _open(self, path: Path) -> tuple[ShardReader, dict[str, Outcome]] | None:
        """A shard's frames and outcomes; None when it is missing, corrupted or of another recipe."""
        if path not in self._shards:
            self._shards[path] = None  # everything is decoded
            with contextlib.suppress(ShardError):
                shard = self._store.shard(path)
                if shard.recipe_sha256 == self._settings.fingerprint():
                    columns = [shard.outcomes[name].tolist() for name in OUTCOME_TYPES]
                    rows = [Outcome(**dict(zip(OUTCOME_TYPES, row, strict=True))) for row in zip(*columns, strict=True)]
                    self._shards[path] = shard.reader(), {outcome.video_id: outcome for outcome in rows}
        return self._shards[path]

    def __enter__(self) -> _EarlierCopies:
        return self

    def __exit__(self, *error: object) -> None:
        for shard in self._shards.values():
            if shard is not None:
                shard[0].close()
