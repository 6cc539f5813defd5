"""Reads from the name of a file which video it is.

Videos are named `{youtube_id}_{start}_{end}` or only `{youtube_id}`, with one of ENDINGS or none.
"""

from __future__ import annotations

import os
import re

from pipeline.common.video_id import ID_PATTERN

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")  # in order of preference
_SEGMENT = re.compile(rf"({ID_PATTERN})_(\d+)(?:\.\d+)?_(\d+)(?:\.\d+)?")
_BARE = re.compile(ID_PATTERN)


def segment_of(path: str) -> tuple[str, str]:
    """(video_id, youtube_id) in a file's name; video_id is '' if it has no times, and both are '' in other names."""
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
    """Whether a file is named like a video: one of ENDINGS, or no ending and a YouTube id (not `README`)."""
    if path.endswith(ENDINGS):  # fast, and nearly always
        return True
    ending = os.path.splitext(path)[1].lower()
    return ending in ENDINGS if ending else bool(segment_of(path)[1])
