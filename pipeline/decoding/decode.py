"""Decodes one video file into the frames to store: with decord, or with PyAV where decord fails or would repeat frames.

Every error that a file causes in a decoder becomes a DecodeError.  process.py handles hangs and crashes.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import DecodeError, file_size
from pipeline.decoding.declared_length import declared_bytes
from pipeline.decoding.frames import Allocate, DecodedVideo, new_frames
from pipeline.decoding.with_decord import decode_with_decord
from pipeline.decoding.with_pyav import decode_with_pyav


def decode_video(
    path: Path, settings: Preprocess, allocate: Allocate = new_frames, with_decord: bool = True
) -> DecodedVideo:
    """Decode a file into the frames that the recipe stores.

    Args:
        path: the video.
        settings: the recipe.
        allocate: gives memory for the frames if their number is known before decoding.
        with_decord: whether to try decord first; False if it crashed or hung on this file.

    Raises:
        DecodeError: the file cannot be stored.
    """
    size = file_size(path)
    _check_end(path, size)
    video = (
        (decode_with_decord(path, size, settings, allocate) if with_decord else None)
        or decode_with_pyav(path, size, settings, skip=True)
        or decode_with_pyav(path, size, settings, skip=False)
    )
    if file_size(path) != size or video is None:
        raise DecodeError("io", "file changed while it was decoded")
    return video


def _check_end(path: Path, size: int) -> None:
    """Raise DecodeError for a file that is shorter than its header says."""
    try:
        declared = declared_bytes(path)
    except OSError as error:
        raise DecodeError("io", error.strerror or "cannot be read") from None
    if declared > size + 1:  # AVI pads to even lengths
        raise DecodeError("truncated", f"file has {size} of {declared} bytes")
