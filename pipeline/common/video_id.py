"""The video_id of a Kinetics video: the key in ledgers and shards, and the name of its file."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.common.tables import list_of

ID_PATTERN = r"[A-Za-z0-9_-]{11}"
ID_RULE = "11 characters of A-Z a-z 0-9 _ -"


def video_ids(youtube_id: Iterable[str], start: Iterable[int], end: Iterable[int]) -> list[str]:
    """The video_id of each Kinetics row: `{youtube_id}_{start:06d}_{end:06d}`."""
    # As lists: iterating over a Series is slow.
    starts, ends = list_of(start), list_of(end)
    padded = {second: f"_{second:06d}" for second in {*starts, *ends}}  # few different seconds in many rows
    rows = zip(list_of(youtube_id), starts, ends, strict=True)
    return [f"{name}{padded[first]}{padded[last]}" for name, first, last in rows]
