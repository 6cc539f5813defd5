"""Decodes with decord, which is tried first; the only module that imports it."""

from __future__ import annotations

import math
from dataclasses import replace

import av
import decord
import numpy as np
from decord._ffi.base import DECORDError, DECORDLimitReachedError
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import ffmpeg_errors, gate, open_container
from pipeline.decoding.frames import MAX_STORED_BYTES, Allocate, DecodedVideo
from pipeline.decoding.resample import kept_frames, since_first
from pipeline.decoding.resize import resize_rgb
from pipeline.decoding.video_file import DecodeError, VideoFile
from pipeline.decoding.with_pyav import all_packets

decord.logging.set_level(decord.logging.QUIET)


def decode_with_decord(file: VideoFile, settings: Preprocess, allocate: Allocate) -> DecodedVideo | None:
    """Decode with decord; None if it cannot decode the file.

    That is so if decord raises, or if it counts other frames than a player shows by the container.  Of a file cut
    without re-encoding it counts too many, and fills the rest with copies of the last frame.

    Raises:
        DecodeError: no decoder can decode the file.
        ReadError: the machine failed; what decord could not read it does not say, and then this returns None.
    """
    with ffmpeg_errors(file), open_container(file) as container:
        stream, source = gate(container, file.size)
        shown = _count_shown(container, stream, file.size)
    indices, fps = kept_frames(shown, source.source_fps, settings.fps)
    shape = (len(indices), settings.height, settings.width, 3)
    if not shown or math.prod(shape) > MAX_STORED_BYTES:
        return None
    try:
        # One thread, as every core has a decoder; with fault_tol=1 the first repeated frame is an error.
        reader = decord.VideoReader(file.path, ctx=decord.cpu(0), num_threads=1, fault_tol=1)
        if len(reader) != shown:
            return None
        frames = allocate(shape)
        height, width = _read(reader, indices.tolist(), frames, settings.interpolation)
        times_s = since_first(reader.get_frame_timestamp(indices)[:, 0], indices, source.source_fps)
    except (DECORDError, DECORDLimitReachedError, RuntimeError, StopIteration):
        return None
    source = replace(source, source_width=width, source_height=height, source_frames=shown)
    return DecodedVideo(frames, times_s, fps, source)


def _count_shown(container: av.container.InputContainer, stream: av.VideoStream, size: int) -> int:
    """How many frames a player shows: by the index if it has every packet, as in an mp4, otherwise by the packets."""
    index = list(stream.index_entries)
    if not stream.frames or len(index) != stream.frames:
        return sum(packet.size > 0 and not packet.is_discard for packet in all_packets(container, stream))
    end = max([entry.pos + entry.size for entry in index])
    if end > size:
        raise DecodeError("truncated", f"file has {size} of {end} bytes")
    return len(index) - sum([entry.is_discard for entry in index])


def _read(
    reader: decord.VideoReader, indices: list[int], frames: NDArray[np.uint8], interpolation: str
) -> tuple[int, int]:
    """Resize the frames `indices` into `frames`, (T, height, width, 3); returns the upright size of the source, (H, W).

    Frames are read in order without seeking: decord hangs when it seeks, and `get_batch` seeks (three times the CPU on
    AV1).  `skip_frames` to a key frame seeks too, so the frame before it is read instead.
    """
    size, position = (0, 0), 0
    keys = set(reader.get_key_indices())
    for out, index in zip(frames, indices, strict=True):
        while position < index:
            key = next((number for number in range(position + 1, index + 1) if number in keys), index + 1)
            if key > position + 1:
                reader.skip_frames(key - 1 - position)
                position = key - 1
            else:
                reader.next()
                position += 1
        picture = np.from_dlpack(_Shared(reader.next()))
        if picture.shape[2] != 3:  # decord counts the padding of rows of 16, 24, 32 or 48 pixels as channels
            raise RuntimeError(f"decord returned {picture.shape[2]} channels, expected 3")
        resize_rgb(picture, out, interpolation)
        size, position = (picture.shape[0], picture.shape[1]), index + 1
    return size


class _Shared:
    """A decord array with DLPack's protocol, so that numpy reads its pixels without a copy."""

    def __init__(self, array: decord.nd.NDArray) -> None:
        self._array = array

    def __dlpack__(self, **_options: object) -> object:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU
