"""Admits files to the decoders, and reads what their containers say.

Only the containers and codecs listed here are opened, so that a playlist named `.mp4` cannot open other files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import av

from pipeline.decoding.video_file import DecodeError, Stream, VideoFile

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
MAX_FRAME_PIXELS = 4096 * 4096
MAX_DURATION_S = 3600.0
MAX_FPS = 1000.0

av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True)
class Source:
    """What is known of a file and its best video stream; before decoding, what its container says.

    Attributes:
        codec: FFmpeg's name.
        source_width: coded width in pixels.
        source_height: coded height in pixels.
        source_bit_depth: bits of a sample; 0: unknown.
        source_fps: mean frames per second; 0: unknown.
        source_frames: number of frames in the container's header; 0: unknown.
        source_bytes: size of the file.
        duration_s: seconds; 0: unknown.
        source_crc32: CRC-32 of the file; 0: not computed yet.
    """

    codec: str
    source_width: int
    source_height: int
    source_bit_depth: int
    source_fps: float
    source_frames: int
    source_bytes: int
    duration_s: float
    source_crc32: int = 0

    def facts(self) -> dict[str, Any]:
        """Those that are columns of a ledger, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "duration_s"}


def probe(file: VideoFile) -> Source:
    """Read a container without decoding.

    Raises:
        DecodeError: its container, codec or size is not admitted.
        ReadError: the machine failed.
    """
    with ffmpeg_errors(file), open_container(file) as container:
        return gate(container, file.size)[1]


def open_container(file: VideoFile) -> av.container.InputContainer:
    """Open a file as one of FORMATS, reading nothing but that file."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    return av.open(Stream(file), "r", options=options, metadata_errors="replace")


def gate(container: av.container.InputContainer, size: int) -> tuple[av.VideoStream, Source]:
    """The stream to decode and what its container says.

    Raises:
        DecodeError: its codec or size is not admitted.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise DecodeError("no_video_stream", "no video stream")
    codec = stream.codec.canonical_name if stream.codec_context else "unknown"
    if codec not in CODECS:
        raise DecodeError("unsupported_codec", f"codec {codec}, expected one of {', '.join(CODECS)}")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    duration_s, start_s = (container.duration or 0) / av.time_base, (container.start_time or 0) / av.time_base
    if stream.duration and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
    if not stream.frames and start_s < duration_s:
        duration_s -= start_s  # Matroska and fragments of mp4 say when they end, also as a part of a longer video
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise DecodeError("too_large", f"{stream.width}x{stream.height}, at most {MAX_FRAME_PIXELS} pixels a frame")
    if not stream.width or not stream.height:
        raise DecodeError("unreadable", "no size of pictures")
    stream.codec_context.thread_count = 1  # every core has a decoder, so threads inside it only add delay
    depth = stream.format.components[0].bits if stream.format else 0
    source = Source(codec, stream.width, stream.height, depth, rate, stream.frames, size, duration_s)
    return stream, source


@contextlib.contextmanager
def ffmpeg_errors(file: VideoFile) -> Iterator[None]:
    """Raise FFmpeg's errors while a file is read as a DecodeError; or the machine's, which FFmpeg may hide.

    Raises:
        DecodeError: FFmpeg cannot read what is in the file.
        MemoryError: there is not enough memory for it.
        ReadError: the machine failed.
    """
    try:
        yield
    except av.error.MemoryError:
        raise MemoryError from None
    except av.FFmpegError as error:
        if file.read_error is None:
            raise DecodeError("unreadable", ffmpeg_message(error)) from None
    finally:
        if file.read_error is not None:
            raise file.read_error


def ffmpeg_message(error: av.FFmpegError) -> str:
    """FFmpeg's message without the path: the bytes of a shard must not depend on where its videos were."""
    logged = str(error.log[-1]).strip() if error.log else ""
    return f"{error.strerror}: {logged}" if logged else str(error.strerror)
