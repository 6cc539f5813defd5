"""Decodes with decord, which is tried first; the only module that imports it."""

from __future__ import annotations

import math
from dataclasses import replace

import decord
import numpy as np
from decord._ffi.base import DECORDError, DECORDLimitReachedError
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
from pipeline.decoding.frames import MAX_STORED_BYTES, Allocate, DecodedVideo
from pipeline.decoding.mirrored import is_mirrored
from pipeline.decoding.packets import read_timing
from pipeline.decoding.resample import kept_by_time, kept_frames, seconds, since_first
from pipeline.decoding.resize import resize_rgb
from pipeline.decoding.video_file import VideoFile

decord.logging.set_level(decord.logging.QUIET)


def decode_with_decord(file: VideoFile, settings: Preprocess, allocate: Allocate) -> DecodedVideo | None:
    """Decode with decord; None if it cannot decode the file.

    That is so if decord raises, or if it gives other frames than a player shows.  It mirrors no picture.  Of a file cut
    without re-encoding it counts too many frames, and fills the rest with copies of the last one.

    Raises:
        DecodeError: no decoder can decode the file.
        ReadError: the machine failed; what decord could not read it does not say, and then this returns None.
    """
    source, timing = read_timing(file)
    shown, times_known = timing.shown, len(timing.ticks) == timing.shown
    if (timing.varying and not times_known) or is_mirrored(file):
        return None
    if timing.varying:
        indices, fps = kept_by_time(timing.ticks, timing.tick_s, timing.rate, settings.fps)
    else:
        indices, fps = kept_frames(shown, timing.rate, settings.fps)
    shape = (len(indices), settings.height, settings.width, 3)
    if not shown or math.prod(shape) > MAX_STORED_BYTES:
        return None
    try:
        # One thread, as every core has a decoder; the first repeated frame is an error (at fault_tol=0 none would be).
        reader = decord.VideoReader(file.path, ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        if len(reader) != shown:
            return None
        frames = allocate(shape)
        height, width = _read(reader, indices.tolist(), frames, settings.interpolation)
    except (DECORDError, DECORDLimitReachedError, RuntimeError, StopIteration):
        return None
    ticks = timing.ticks if times_known else np.full(shown, np.nan)
    times_s = since_first(seconds(ticks, timing.tick_s), np.arange(shown), timing.rate)[indices]
    source = replace(source, source_width=width, source_height=height, source_frames=shown)
    return DecodedVideo(frames, times_s, fps, source, chosen_by="time" if timing.varying else "")


def _read(
    reader: decord.VideoReader, indices: list[int], frames: NDArray[np.uint8], interpolation: str
) -> tuple[int, int]:
    """Resize the frames `indices` into `frames`, (T, height, width, 3); returns the upright size of the source, (H, W).

    Frames are read in order without seeking: decord hangs when it seeks, and `get_batch` seeks (three times the CPU on
    AV1).  `skip_frames` to a key frame seeks too, so the frame before it is read instead.
    """
    size, position = (0, 0), 0
    keys = set(reader.get_key_indices())

    def read(index: int) -> NDArray[np.uint8]:
        nonlocal position
        while position < index:
            key = next((number for number in range(position + 1, index + 1) if number in keys), index + 1)
            if key > position + 1:
                reader.skip_frames(key - 1 - position)
                position = key - 1
            else:
                reader.next()
                position += 1
        position += 1
        return np.from_dlpack(_Shared(reader.next()))

    for number, index in enumerate(indices):
        if index < position:  # the same frame again
            frames[number] = frames[number - 1]
            continue
        picture = read(index)
        if picture.shape[2] != 3:  # decord counts the padding of rows of 16, 24, 32 or 48 pixels as channels
            raise RuntimeError(f"decord returned {picture.shape[2]} channels, expected 3")
        resize_rgb(picture, frames[number], interpolation)
        size = (picture.shape[0], picture.shape[1])
    if position < len(reader):  # a packet without a picture shows only at the end, where decord repeats the last one
        read(len(reader) - 1)
    return size


class _Shared:
    """A decord array with DLPack's protocol, so that numpy reads its pixels without a copy."""

    def __init__(self, array: decord.nd.NDArray) -> None:
        self._array = array

    def __dlpack__(self, **_options: object) -> object:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU
