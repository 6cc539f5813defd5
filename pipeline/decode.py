"""One video file to stored frames: gate, decode, resample, resize.  The only module that imports decord.

PyAV looks first: only the containers and codecs listed here reach a decoder, so that a playlist named `.mp4` cannot
open other files.  decord decodes; where it cannot, or where it repeats frames (it does so silently on cuts made
without re-encoding), PyAV decodes what is truly there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import decord
import numpy as np
from numpy.typing import NDArray

from pipeline.recipe import Preprocess

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
MAX_FRAME_PIXELS = 4096 * 4096
MAX_DURATION_S = 3600.0
MAX_SIZE_BYTES = 4 << 30
_CHUNK_BYTES = 64 << 20  # of source RGB held at once

log = logging.getLogger(__name__)

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}

decord.logging.set_level(decord.logging.QUIET)
av.logging.set_level(av.logging.PANIC)
cv2.setNumThreads(1)


class DecodeError(RuntimeError):
    """A video that cannot be stored: a ledger `status` and a `reason` in one line."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, " ".join(reason.split())[:300]

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """What a container says of its best video stream; sizes in pixels as displayed."""

    codec: str
    source_width: int
    source_height: int
    source_fps: float
    source_frames: int
    source_bytes: int


@dataclass(frozen=True)
class Video:
    """Stored frames of a video and what they came from.

    Attributes:
        frames: (T, height, width, 3) uint8 RGB, 0..255.
        fps: stored frames per second.
        codec: of the source stream, FFmpeg's name.
        source_width: in pixels, upright.
        source_height: in pixels, upright.
        source_fps: frames per second.
        source_frames: frames the decoder found.
        source_bytes: size of the file.
    """

    frames: NDArray[np.uint8]
    fps: float
    codec: str
    source_width: int
    source_height: int
    source_fps: float
    source_frames: int
    source_bytes: int


def kept_frames(num_frames: int, source_fps: float, fps: float | str) -> tuple[NDArray[np.int64], float]:
    """Which source frames are stored, and at what rate.

    Stored frame k is source frame floor(k * source_fps / fps), torchvision's resampling; a source that is no faster
    than `fps`, or any with `fps` source, is kept whole at its own rate.
    """
    if fps == "source" or source_fps <= float(fps):
        return np.arange(num_frames, dtype=np.int64), source_fps
    step = source_fps / float(fps)
    indices = np.floor(np.arange(int(np.ceil(num_frames / step))) * step).astype(np.int64)
    return indices[indices < num_frames], float(fps)


def decode_video(path: Path, settings: Preprocess) -> Video:
    """Decode a file into the frames that the recipe stores.

    Raises:
        DecodeError: with the ledger status that fits.
    """
    source = probe(path)
    try:
        return _with_decord(path, source, settings)
    except Exception as error:  # noqa: BLE001  decord raises RuntimeError, AssertionError and kinds of its own
        log.debug("%s: decord: %s", path, error)
    return _with_pyav(path, source, settings)


def probe(path: Path) -> Source:
    """Look at a container without decoding.

    Raises:
        DecodeError: it is not a file, or not a container, codec or size that may reach a decoder.
    """
    try:
        if not path.is_file():
            raise DecodeError("io", "not a regular file")
        size = path.stat().st_size
    except OSError as error:
        raise DecodeError("io", str(error)) from None
    if not 0 < size <= MAX_SIZE_BYTES:
        raise DecodeError("too_large" if size else "unreadable", f"{size} bytes")
    try:
        with _open(path) as container:
            if not container.streams.video:
                raise DecodeError("no_video_stream", "has no video stream")
            stream = container.streams.best("video")
            if stream.codec.canonical_name not in CODECS:
                raise DecodeError("unsupported_codec", f"codec {stream.codec.canonical_name} is not among {CODECS}")
            pixels = stream.width * stream.height
            if pixels > MAX_FRAME_PIXELS or (container.duration or 0) / av.time_base > MAX_DURATION_S:
                raise DecodeError(
                    "too_large", f"{stream.width}x{stream.height}, {(container.duration or 0) / 1e6:.0f} s"
                )
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            if rate <= 0:
                raise DecodeError("unreadable", "has no frame rate")
            codec = stream.codec.canonical_name
            return Source(codec, stream.width, stream.height, rate, stream.frames, size)
    except av.FFmpegError as error:
        raise DecodeError("unreadable", str(error)) from None


def _open(path: Path) -> av.container.InputContainer:
    # A name is given to FFmpeg as a file URL, so that one with a colon or a leading dash is no protocol or option.
    return av.open(f"file:{path}", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})


def _with_decord(path: Path, source: Source, settings: Preprocess) -> Video:
    """decord, one thread; any fault, and any repeated frame (fault_tol), is an exception."""
    with open(path, "rb"):
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
    count = len(reader)
    if count < source.source_frames:
        raise ValueError(f"{count} frames, {source.source_frames} by its index")
    indices, fps = kept_frames(count, source.source_fps, settings.fps)
    height, width = reader[0].shape[:2]
    reader.seek(0)
    stored = np.empty((len(indices), settings.height, settings.width, 3), np.uint8)
    chunk = max(1, _CHUNK_BYTES // (height * width * 3))
    for start in range(0, len(indices), chunk):
        pictures = reader.get_batch(indices[start : start + chunk].tolist()).asnumpy()
        for slot, picture in enumerate(pictures, start):
            _resize(picture, stored[slot], settings)
    return _video(stored, fps, source, count, (height, width))


def _with_pyav(path: Path, source: Source, settings: Preprocess) -> Video:
    """PyAV: the frames that are truly there, upright."""
    stored, count, packets, size = [], 0, 0, (0, 0)
    step = 1.0
    if settings.fps != "source" and source.source_fps > float(settings.fps):
        step = source.source_fps / float(settings.fps)
    fps = source.source_fps if step == 1.0 else float(settings.fps)
    try:
        with _open(path) as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                packets += packet.size > 0
                for picture in packet.decode():
                    if count == int(len(stored) * step):
                        pixels = np.rot90(picture.to_ndarray(format="rgb24"), round(picture.rotation / 90) % 4)
                        size = pixels.shape[:2]
                        frame = np.empty((settings.height, settings.width, 3), np.uint8)
                        _resize(np.ascontiguousarray(pixels), frame, settings)
                        stored.append(frame)
                    count += 1
    except av.FFmpegError as error:
        status = "truncated" if count else "unreadable"
        raise DecodeError(status, f"after {count} frames: {error}") from None
    if packets < source.source_frames:  # an index that lists more than the file holds: the end is missing
        raise DecodeError("truncated", f"holds {packets} of the {source.source_frames} frames its index lists")
    if not stored:
        raise DecodeError("unreadable", "holds no frame that can be decoded")
    return _video(np.stack(stored), fps, source, count, size)


def _video(stored: NDArray[np.uint8], fps: float, source: Source, count: int, size: tuple[int, int]) -> Video:
    if not len(stored):
        raise DecodeError("too_short", "holds no frame")
    return Video(stored, fps, source.codec, size[1], size[0], source.source_fps, count, source.source_bytes)


def _resize(picture: NDArray[np.uint8], out: NDArray[np.uint8], settings: Preprocess) -> None:
    size = (settings.width, settings.height)
    cv2.resize(picture, size, dst=out, interpolation=_INTERPOLATION[settings.interpolation])
