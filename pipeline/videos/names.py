"""Which video the name of a file speaks of.

A video is `{youtube_id}_{start}_{end}` or bare `{youtube_id}`, with one of ENDINGS or none.
"""

from __future__ import annotations

import os
import re

from pipeline.common.video_id import ID_PATTERN

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")  # in order of preference
_SEGMENT = re.compile(rf"({ID_PATTERN})_(\d+)(?:\.\d+)?_(\d+)(?:\.\d+)?")
_BARE = re.compile(ID_PATTERN)


def segment_of(path: str) -> tuple[str, str]:
    """(video_id, youtube_id) that a video's name speaks of; a bare id has no video_id; ('', '') when neither."""
    name = path[path.rfind("/") + 1 :]
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem = name
    elif f".{ending.lower()}" not in ENDINGS:
        return "", ""
    match = _SEGMENT.fullmatch(stem)
    if match:
        return f"{match[1]}_{int(match[2]):06d}_{int(match[3]):06d}", match[1]
    return "", stem if _BARE.fullmatch(stem) else ""


def is_video(path: str) -> bool:
    """Whether a name is a video's: one of ENDINGS, or no ending and a segment's name (not `README`)."""
    ending = os.path.splitext(path)[1].lower()
    return ending in ENDINGS if ending else bool(segment_of(path)[1])
