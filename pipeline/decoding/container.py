"""Admits files to the decoders, and reads what their containers say.

Only the containers and codecs listed here are opened, so that a playlist named `.mp4` cannot open other files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
from isal import isal_zlib

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
MAX_FRAME_PIXELS = 4096 * 4096
MAX_DURATION_S = 3600.0
MAX_FPS = 1000.0
MAX_SIZE_BYTES = 4 << 30
_PART_BYTES = 1 << 20

av.logging.set_level(av.logging.PANIC)


class DecodeError(RuntimeError):
    """A video cannot be stored.

    Attributes:
        status: the status for its ledger row.
        reason: one line that names no path.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, " ".join(reason.split())[:300]

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """What is known of a file and its best video stream; before decoding, what its container says.

    Attributes:
        codec: FFmpeg's name.
        source_width: coded width in pixels.
        source_height: coded height in pixels.
        source_bit_depth: bits of a sample; 0: unknown.
        source_fps: mean frames per second.
        source_frames: number of frames in the container's header; 0: unknown.
        source_bytes: size of the file.
        duration_s: seconds; 0: unknown.
    """

    codec: str
    source_width: int
    source_height: int
    source_bit_depth: int
    source_fps: float
    source_frames: int
    source_bytes: int
    duration_s: float

    def facts(self) -> dict[str, Any]:
        """Those that are columns of a ledger, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "duration_s"}


def probe(path: Path) -> Source:
    """Read a container without decoding.

    Raises:
        DecodeError: the file cannot be read, or its container, codec or size is not admitted.
    """
    size = file_size(path)
    with ffmpeg_errors(), open_container(path) as container:
        return gate(container, size)[1]


def file_size(path: Path) -> int:
    """Size of a regular file in bytes.  It is not opened: opening a FIFO would wait for its writer.

    Raises:
        DecodeError: it is not a regular file, is empty or is too large.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DecodeError("io", error.strerror or "no access") from None
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("io", "not a regular file")
    if not status.st_size:
        raise DecodeError("unreadable", "empty file")
    if status.st_size > MAX_SIZE_BYTES:
        raise DecodeError("too_large", f"{status.st_size} bytes, at most {MAX_SIZE_BYTES}")
    return status.st_size


def file_crc32(path: Path) -> int:
    """CRC-32 of a file that `file_size` admits.

    Raises:
        DecodeError: it is not admitted, or cannot be read.
    """
    file_size(path)
    crc = 0
    try:
        with open(path, "rb", buffering=0) as file:
            while part := file.read(_PART_BYTES):
                crc = isal_zlib.crc32(part, crc)
    except OSError as error:
        raise DecodeError("io", error.strerror or "cannot be read") from None
    return crc


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file as one of FORMATS, reading nothing but that file."""
    # In a file URL, a name with a colon or a leading dash is neither a protocol nor an option.
    return av.open(
        f"file:{os.fspath(path)}",
        options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        metadata_errors="replace",
    )


def gate(container: av.container.InputContainer, size: int) -> tuple[av.VideoStream, Source]:
    """The stream to decode and what its container says.

    Raises:
        DecodeError: its codec, size, length or frame rate is not admitted.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise DecodeError("no_video_stream", "no video stream")
    codec = stream.codec.canonical_name if stream.codec_context else "unknown"
    if codec not in CODECS:
        raise DecodeError("unsupported_codec", f"codec {codec}, expected one of {', '.join(CODECS)}")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    duration_s = (container.duration or 0) / av.time_base
    if stream.duration and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise DecodeError("too_large", f"{stream.width}x{stream.height}, at most {MAX_FRAME_PIXELS} pixels a frame")
    if duration_s > MAX_DURATION_S:
        raise DecodeError("too_large", f"{duration_s:.0f} s, at most {MAX_DURATION_S:.0f}")
    if rate > MAX_FPS:
        raise DecodeError("too_large", f"{rate:g} frames/s, at most {MAX_FPS:g}")
    if rate <= 0 or not stream.width or not stream.height:
        raise DecodeError("unreadable", "no frame rate or size")
    stream.codec_context.thread_count = 1  # every core has a decoder, so threads inside it only add delay
    depth = stream.format.components[0].bits if stream.format else 0
    source = Source(codec, stream.width, stream.height, depth, rate, stream.frames, size, duration_s)
    return stream, source


@contextlib.contextmanager
def ffmpeg_errors() -> Iterator[None]:
    """Raise FFmpeg's errors while a file is opened as a DecodeError."""
    try:
        yield
    except av.FFmpegError as error:
        raise DecodeError("io" if isinstance(error, OSError) else "unreadable", ffmpeg_message(error)) from None


def ffmpeg_message(error: av.FFmpegError) -> str:
    """FFmpeg's message without the path: the bytes of a shard must not depend on where its videos were."""
    logged = str(error.log[-1]).strip() if error.log else ""
    return f"{error.strerror}: {logged}" if logged else str(error.strerror)
