"""One video file to the frames that are stored: the gate, then decord, and PyAV where decord cannot or would repeat frames.

Whatever a file makes a decoder raise ends in one DecodeError; what makes it hang or crash is the business of process.py.
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
        allocate: asked for memory once the number of frames is known; frames that come otherwise do without.
        with_decord: whether to try decord first; not, where it has crashed or hung on this file.

    Raises:
        DecodeError: with the ledger status that fits.
    """
    size = file_size(path)
    _check_end(path, size)
    video = (
        (decode_with_decord(path, size, settings, allocate) if with_decord else None)
        or decode_with_pyav(path, size, settings, skip=True)
        or decode_with_pyav(path, size, settings, skip=False)
    )
    if file_size(path) != size or video is None:
        raise DecodeError("io", "changed while it was decoded")
    return video


def _check_end(path: Path, size: int) -> None:
    try:
        declared = declared_bytes(path)
    except OSError as error:
        raise DecodeError("io", error.strerror or "cannot be read") from None
    if declared > size + 1:  # AVI pads to even lengths
        raise DecodeError("truncated", f"{size} of {declared} bytes are there")
