"""Decodes one video file into the frames to store: with the recipe's decoder, or with the other where that one fails.

Every error that a file causes in a decoder becomes a DecodeError.  process.py handles hangs and crashes.

What a try says counts only if no fault of the machine can be in it: decord does not tell a file that it cannot decode
from one that it could not read.  So a video that is not decoded at the first try is copied into memory, where every
read is checked, and only what the decoders say of the copy is believed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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
    path: Path, settings: Preprocess, allocate: Allocate = new_frames, with_chosen: bool = True
) -> DecodedVideo:
    """Decode a file into the frames that the recipe stores.

    Args:
        path: the video.
        settings: the recipe; a file that is outside its `data_root`, if it has one, is refused.
        allocate: gives memory for the frames if their number is known before decoding.
        with_chosen: whether to try the recipe's decoder; False if it crashed or hung on this file.

    Raises:
        DecodeError: the file cannot be stored.
        ReadError: the machine could not read it.
    """
    with open_video(path, settings.data_root) as file:
        try:
            video = _decode(file, settings, allocate, with_chosen)
        except DecodeError as error:
            error.facts = _facts_of_bad(file)
            raise
        return replace(video, source=replace(video.source, source_crc32=file.crc32()))


def _decode(file: VideoFile, settings: Preprocess, allocate: Allocate, with_chosen: bool) -> DecodedVideo:
    chosen, other = decode_with_decord, decode_with_pyav
    if settings.decoder == "pyav":
        chosen, other = other, chosen
    video: DecodedVideo | None = None
    if with_chosen:
        with contextlib.suppress(DecodeError):
            video = chosen(file, settings, allocate)
    if video is None:
        with file.in_memory() as copy:
            video = _decode_copy(copy, settings, allocate, [chosen, other] if with_chosen else [other])
    if file.has_changed():
        raise DecodeError("io", "file changed while it was decoded")
    return video


def _decode_copy(
    copy: VideoFile, settings: Preprocess, allocate: Allocate, decoders: list[Callable[..., DecodedVideo | None]]
) -> DecodedVideo:
    """Decode with the first decoder that can.

    Raises:
        DecodeError: none can; what PyAV says of the file, where it was tried, because decord does not say why.
        ReadError: the machine failed.
    """
    failure: DecodeError | None = None
    for decode in decoders:
        try:
            video = decode(copy, settings, allocate)
        except DecodeError as error:
            failure = failure or error
        else:
            if video is not None:
                return video
    raise failure or DecodeError("unreadable", "decord cannot decode it")


def _facts_of_bad(file: VideoFile) -> dict[str, Any]:
    """What is known of a bad video: its checksum and what its container says, if they can be read."""
    facts: dict[str, Any] = {"source_crc32": file.crc32()}
    try:
        facts.update(replace(probe(file), source_crc32=facts["source_crc32"]).facts())
    except DecodeError:
        pass
    return facts
