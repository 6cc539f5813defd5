"""What became of one video when it was decoded, for the ledgers and shards that hold it as columns."""

from __future__ import annotations

import typing
from dataclasses import dataclass

STATUSES = (
    "pending", "retry", "ok", "missing", "unreadable", "truncated", "no_video_stream", "unsupported_codec",
    "duplicated_frames", "too_short", "too_large", "timeout", "crash", "io",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one planned video; each field is a column of the ledger (data_manifests/README.md).

    Unknown numbers are 0, unknown texts empty.  `decoder` is empty where decord gave the frames, and in shards that
    were written before it was recorded.  `chosen_by` is `time` where the rate of the source varies, and
    empty where frames are chosen by their number: at a constant rate, and in shards written before it was recorded.
    """

    video_id: str
    status: str
    reason: str = ""
    codec: str = ""
    source_width: int = 0
    source_height: int = 0
    source_bit_depth: int = 0
    source_fps: float = 0.0
    source_frames: int = 0
    source_bytes: int = 0
    source_crc32: int = 0
    num_frames: int = 0
    fps: float = 0.0
    decoder: str = ""
    chosen_by: str = ""


OUTCOME_TYPES: dict[str, type] = typing.get_type_hints(Outcome)
"""The type of each field, in order: str, int or float."""

LATER_FIELDS = ("decoder", "chosen_by")
"""Fields that earlier ledgers and shards have not.  A file has one only where some video has a value of it, so that the
same facts give the bytes that they gave before."""
