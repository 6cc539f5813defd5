"""The bytes of one video as a shard stores them, encoded where it is decoded, so that this runs in parallel too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg
from isal import isal_zlib
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess


class Encoded(NamedTuple):
    """A video ready to be stored.

    Attributes:
        data: (T, height, width, 3) uint8 RGB with codec raw; with jpeg (n,) uint8, T JPEGs end to end.
        starts: with jpeg (T + 1,) int64, where each JPEG begins in `data` and the last ends; else None.
        num_frames: T.
        times_s: (T,) float32, when each frame is shown, in seconds since the first.
        crc32: of the bytes of `data`.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64] | None
    num_frames: int
    times_s: NDArray[np.float32]
    crc32: int


def encode(frames: NDArray[np.uint8], times_s: NDArray[np.float32], settings: Preprocess) -> Encoded:
    """Frames (T, height, width, 3) uint8 RGB, C-contiguous, and their times as the recipe stores them."""
    if settings.codec == "raw":
        return Encoded(frames, None, len(frames), times_s, isal_zlib.crc32(frames.reshape(-1).data))
    data, starts = encode_jpeg(frames, settings.jpeg_quality)
    return Encoded(data, starts, len(frames), times_s, isal_zlib.crc32(data.data))


def frames_of(encoded: Encoded) -> NDArray[np.uint8]:
    """The frames (T, height, width, 3) uint8 RGB of a video as a shard gives them, JPEGs decoded."""
    if encoded.starts is None:
        return encoded.data
    places = zip(encoded.starts[:-1], encoded.starts[1:], strict=True)
    return np.stack([simplejpeg.decode_jpeg(encoded.data[begin:end], "RGB") for begin, end in places])


def encode_jpeg(frames: NDArray[np.uint8], quality: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames (T, height, width, 3) RGB -> their JPEGs end to end, and the (T + 1,) places where each begins."""
    pictures = [
        simplejpeg.encode_jpeg(frame, quality, colorspace="RGB", colorsubsampling="420", fastdct=False)
        for frame in frames
    ]
    starts = np.zeros(len(pictures) + 1, np.int64)
    np.cumsum([len(picture) for picture in pictures], out=starts[1:])
    return np.frombuffer(b"".join(pictures), np.uint8), starts
