"""The gate before any decoder: which files may reach one, and what their containers say.

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
    """A video that cannot be stored: a ledger `status`, and a `reason` of one line that names no path."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, " ".join(reason.split())[:300]

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """What is known of a file and its best video stream: before it is decoded, what its container says.

    Attributes:
        codec: FFmpeg's name.
        source_width: coded width in pixels.
        source_height: coded height in pixels.
        source_bit_depth: bits of a sample, 0: it does not say.
        source_fps: mean frames per second.
        source_frames: frames, by the container's own count; 0: it does not say.
        source_bytes: size of the file.
        duration_s: seconds, 0: it does not say.
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
        """The columns of a ledger among these."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "duration_s"}


def probe(path: Path) -> Source:
    """Look at a container without decoding.

    Raises:
        DecodeError: it is not a file, or not a container, codec or size that may reach a decoder.
    """
    size = file_size(path)
    with faults(), open_container(path) as container:
        return gate(container, size)[1]


def file_size(path: Path) -> int:
    """Size of a regular file in bytes.  Nothing is opened: opening a FIFO would wait for its writer."""
    try:
        found = path.stat()
    except OSError as error:
        raise DecodeError("io", error.strerror or "cannot be looked at") from None
    if not stat.S_ISREG(found.st_mode):
        raise DecodeError("io", "not a regular file")
    if not found.st_size:
        raise DecodeError("unreadable", "empty file")
    if found.st_size > MAX_SIZE_BYTES:
        raise DecodeError("too_large", f"{found.st_size} bytes, at most {MAX_SIZE_BYTES}")
    return found.st_size


def file_crc32(path: Path) -> int:
    """CRC-32 of a file that `file_size` admits.

    Raises:
        DecodeError: it is none, or cannot be read.
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
    # As a file URL a name with a colon or a leading dash is neither a protocol nor an option.
    return av.open(
        f"file:{os.fspath(path)}",
        options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        metadata_errors="replace",
    )


def gate(container: av.container.InputContainer, size: int) -> tuple[av.VideoStream, Source]:
    """The stream to decode and what is known of it, if it may reach a decoder."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise DecodeError("no_video_stream", "holds no video stream")
    codec = stream.codec.canonical_name if stream.codec_context else "of an unknown kind"
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
        raise DecodeError("unreadable", "has no frame rate or size")
    stream.codec_context.thread_count = 1  # one decoder a core: threads inside it only add delay
    depth = stream.format.components[0].bits if stream.format else 0
    source = Source(codec, stream.width, stream.height, depth, rate, stream.frames, size, duration_s)
    return stream, source


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """FFmpeg's faults in opening a file, as ours."""
    try:
        yield
    except av.FFmpegError as error:
        raise DecodeError("io" if isinstance(error, OSError) else "unreadable", words(error)) from None


def words(error: av.FFmpegError) -> str:
    """What FFmpeg says, without the path: a shard holds the same bytes wherever its videos were."""
    logged = str(error.log[-1]).strip() if error.log else ""
    return f"{error.strerror}: {logged}" if logged else str(error.strerror)
