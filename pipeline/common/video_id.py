"""The key of a Kinetics video, which is also the name of its file."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.common.tables import list_of

ID_PATTERN = r"[A-Za-z0-9_-]{11}"


def video_ids(youtube_id: Iterable[str], start: Iterable[int], end: Iterable[int]) -> list[str]:
    """The key of Kinetics rows, and the name of their files: `{youtube_id}_{start:06d}_{end:06d}`."""
    # As lists: iterating over a Series makes an object of each value the slow way.
    starts, ends = list_of(start), list_of(end)
    padded = {second: f"_{second:06d}" for second in {*starts, *ends}}  # some hundred seconds, some 100,000 rows
    rows = zip(list_of(youtube_id), starts, ends, strict=True)
    return [f"{name}{padded[first]}{padded[last]}" for name, first, last in rows]
