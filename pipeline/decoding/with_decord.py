"""The first decoder, decord; the only module that imports it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import decord
import numpy as np
from decord._ffi.base import DECORDError, DECORDLimitReachedError
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import DecodeError, faults, gate, open_container
from pipeline.decoding.frames import MAX_STORED_BYTES, Allocate, DecodedVideo
from pipeline.decoding.resample import kept_frames, since_first
from pipeline.decoding.resize import resize_rgb
from pipeline.decoding.with_pyav import checked

decord.logging.set_level(decord.logging.QUIET)


def decode_with_decord(path: Path, size: int, settings: Preprocess, allocate: Allocate) -> DecodedVideo | None:
    """Decode with decord; None where its frames would not be the file's own.

    The container says how many frames a player shows.  decord counts more of them on a cut made without
    re-encoding, and fills the surplus with copies of the last frame; such a file is left to the second decoder, and
    so is one that decord raises on.
    """
    with faults(), open_container(path) as container:
        stream, source = gate(container, size)
        shown = _count_shown(container, stream, size)
    indices, fps = kept_frames(shown, source.source_fps, settings.fps)
    shape = (len(indices), settings.height, settings.width, 3)
    if not shown or math.prod(shape) > MAX_STORED_BYTES:
        return None
    try:
        # One thread, as every core has a decoder of its own; the first repeated frame is a fault.
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
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
    """Frames that a player shows: those of the index, where it has every packet as in an mp4, else of the packets."""
    index = list(stream.index_entries)
    if not stream.frames or len(index) != stream.frames:
        return sum(packet.size > 0 and not packet.is_discard for packet in checked(container, stream))
    end = max([entry.pos + entry.size for entry in index])
    if end > size:
        raise DecodeError("truncated", f"{size} of {end} bytes are there")
    return len(index) - sum([entry.is_discard for entry in index])


def _read(
    reader: decord.VideoReader, indices: list[int], frames: NDArray[np.uint8], interpolation: str
) -> tuple[int, int]:
    """Resize the frames `indices` into `frames`, (T, height, width, 3); returns the source's upright size, (H, W).

    In order and never seeking: seeking is where decord hangs, and `get_batch` seeks (three times the CPU on AV1).
    So does `skip_frames` to a key frame; the frame before one is read instead.
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
        if picture.shape[2] != 3:  # it takes the padding of rows of 16, 24, 32 or 48 pixels for more channels
            raise RuntimeError(f"decord delivers {picture.shape[2]} channels")
        resize_rgb(picture, out, interpolation)
        size, position = (picture.shape[0], picture.shape[1]), index + 1
    return size


class _Shared:
    """A decord array as DLPack's protocol wants it, so that numpy sees its pixels without a copy."""

    def __init__(self, array: decord.nd.NDArray) -> None:
        self._array = array

    def __dlpack__(self, **_options: object) -> object:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU
