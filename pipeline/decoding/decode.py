"""Decodes one video file into the frames to store: with decord, or with PyAV where decord cannot decode it.

Every error that a file causes in a decoder becomes a DecodeError.  process.py handles hangs and crashes.

What a try says counts only if no fault of the machine can be in it: decord does not tell a file that it cannot decode
from one that it could not read.  So a video that is not decoded at the first try is copied into memory, where every
read is checked, and only what the decoders say of the copy is believed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import probe
from pipeline.decoding.frames import Allocate, DecodedVideo, new_frames
from pipeline.decoding.video_file import DecodeError, VideoFile, open_video
from pipeline.decoding.with_decord import decode_with_decord
from pipeline.decoding.with_pyav import decode_with_pyav


def decode_video(
    path: Path, settings: Preprocess, allocate: Allocate = new_frames, with_decord: bool = True
) -> DecodedVideo:
    """Decode a file into the frames that the recipe stores.

    Args:
        path: the video.
        settings: the recipe; a file that is outside its `data_root`, if it has one, is refused.
        allocate: gives memory for the frames if their number is known before decoding.
        with_decord: whether to try decord first; False if it crashed or hung on this file.

    Raises:
        DecodeError: the file cannot be stored.
        ReadError: the machine could not read it.
    """
    with open_video(path, settings.data_root) as file:
        try:
            video = _decode(file, settings, allocate, with_decord)
        except DecodeError as error:
            error.facts = _facts_of_bad(file)
            raise
        return replace(video, source=replace(video.source, source_crc32=file.crc32()))


def _decode(file: VideoFile, settings: Preprocess, allocate: Allocate, with_decord: bool) -> DecodedVideo:
    video: DecodedVideo | None = None
    try:
        video = decode_with_decord(file, settings, allocate) if with_decord else None
    except DecodeError:
        pass
    if video is None:
        with file.in_memory() as copy:
            video = decode_with_decord(copy, settings, allocate) if with_decord else None
            video = video or decode_with_pyav(copy, settings)
    if file.has_changed():
        raise DecodeError("io", "file changed while it was decoded")
    return video


def _facts_of_bad(file: VideoFile) -> dict[str, Any]:
    """What is known of a bad video: its checksum and what its container says, if they can be read."""
    facts: dict[str, Any] = {"source_crc32": file.crc32()}
    try:
        facts.update(replace(probe(file), source_crc32=facts["source_crc32"]).facts())
    except DecodeError:
        pass
    return facts
