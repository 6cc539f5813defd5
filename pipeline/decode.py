"""One video file to stored frames: gate, decode, resample, resize.

PyAV decodes, one thread.  Only the containers and codecs listed here reach a decoder, so that a playlist named `.mp4`
cannot open other files.  Every frame is a frame of the file: decord, the usual choice, repeats frames without a word on
cuts made without re-encoding, and needs more CPU to decode a file than this module needs for everything.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.pixels import FrameResizer, quarter_turns
from pipeline.recipe import Preprocess

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
MAX_FRAME_PIXELS = 4096 * 4096
MAX_DURATION_S = 3600.0
MAX_FPS = 1000.0
MAX_SIZE_BYTES = 4 << 30
MAX_STORED_BYTES = 1 << 30  # frames of one video are held in memory: 18 minutes at 15 frames/s of 128 x 171

# Packets of files up to this size are read before the first is decoded: their times tell which frame each one is, so
# that a frame which is neither kept nor referred to need not be decoded at all.
_MAX_AHEAD_BYTES = 64 << 20

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
    """What a container says of its best video stream, before anything is decoded.

    Attributes:
        codec: FFmpeg's name.
        source_width: coded width in pixels.
        source_height: coded height in pixels.
        source_fps: mean frames per second.
        source_frames: frames, by the container's own count; 0: it does not say.
        source_bytes: size of the file.
        duration_s: seconds, 0: it does not say.
    """

    codec: str
    source_width: int
    source_height: int
    source_fps: float
    source_frames: int
    source_bytes: int
    duration_s: float


@dataclass(frozen=True)
class Video:
    """Stored frames of a video and what they came from.

    Attributes:
        frames: (T, height, width, 3) uint8 RGB, 0..255.
        fps: stored frames per second.
        codec: of the source stream, FFmpeg's name.
        source_width: in pixels, upright.
        source_height: in pixels, upright.
        source_fps: mean frames per second.
        source_frames: frames a player shows.
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


def resampling(source_fps: float, fps: float | str) -> tuple[float, float]:
    """Source frames per stored frame, and stored frames per second.

    A source no faster than `fps`, or any with `fps` source, is kept whole at its own rate.
    """
    if fps == "source" or source_fps <= float(fps):
        return 1.0, source_fps
    return source_fps / float(fps), float(fps)


def kept_frames(num_frames: int, source_fps: float, fps: float | str) -> tuple[NDArray[np.int64], float]:
    """Which of `num_frames` source frames are stored, and at what rate.

    Stored frame k is source frame floor(k * source_fps / fps), torchvision's resampling.
    """
    step, stored_fps = resampling(source_fps, fps)
    indices = np.floor(np.arange(int(np.ceil(num_frames / step)) + 1) * step).astype(np.int64)
    return indices[indices < num_frames], stored_fps


def probe(path: Path) -> Source:
    """Look at a container without decoding.

    Raises:
        DecodeError: it is not a file, or not a container, codec or size that may reach a decoder.
    """
    size = _size(path)
    with _faults(), _open(path) as container:
        return _gate(container, size)[1]


def decode_video(path: Path, settings: Preprocess) -> Video:
    """Decode a file into the frames that the recipe stores.

    Raises:
        DecodeError: with the ledger status that fits.
    """
    size = _size(path)
    video = _attempt(path, size, settings, skip=True) or _attempt(path, size, settings, skip=False)
    if _size(path) != size or video is None:
        raise DecodeError("io", "changed while it was decoded")
    return video


def _attempt(path: Path, size: int, settings: Preprocess, skip: bool) -> Video | None:
    """Decode a file once; None if `skip` left out a frame that is kept."""
    with _faults(), _open(path) as container:
        stream, source = _gate(container, size)
        collector = _Collector(settings, source)
        try:
            complete = _decode(container, stream, source, collector, skip and source.codec == "h264")
        except av.FFmpegError as error:
            status = "truncated" if collector.seen else "unreadable"
            raise DecodeError(status, f"after {collector.seen} frames: {_words(error)}") from None
    return collector.video() if complete else None


class _Collector:
    """Takes the pictures of a video in order and keeps those the recipe stores."""

    def __init__(self, settings: Preprocess, source: Source) -> None:
        self.step, self.fps = resampling(source.source_fps, settings.fps)
        self.source, self.seen, self.stored = source, 0, 0
        self.size = (0, 0)
        self._resize = FrameResizer(settings.height, settings.width, settings.interpolation)
        self._shape = (settings.height, settings.width, 3)
        # One more than expected: rates are means.  Pages that are never written cost no memory.
        expected = max(source.source_frames, source.duration_s * source.source_fps) / self.step
        self._limit = MAX_STORED_BYTES // (settings.height * settings.width * 3)
        if expected > self._limit:
            raise DecodeError("too_large", f"{expected:.0f} stored frames, at most {self._limit} are held")
        self._frames = np.empty((int(expected) + 2, *self._shape), np.uint8)

    def take(self, picture: av.VideoFrame, index: int) -> None:
        """Look at source frame `index`."""
        self.seen += 1
        if index != int(self.stored * self.step):
            return
        if self.stored == len(self._frames):
            if self.stored >= self._limit:
                raise DecodeError("too_large", f"more than {self._limit} stored frames")
            more = np.empty((min(2 * self.stored, self._limit) - self.stored, *self._shape), np.uint8)
            self._frames = np.concatenate([self._frames, more])
        if not self.stored:
            turned = quarter_turns(picture) % 2
            self.size = (picture.width, picture.height) if turned else (picture.height, picture.width)
        self._resize(picture, self._frames[self.stored])
        self.stored += 1

    def video(self) -> Video:
        """What was kept; `seen` is the number of source frames."""
        if not self.stored:
            raise DecodeError("unreadable", "holds no frame that can be decoded")
        height, width = self.size
        source = self.source
        return Video(
            self._frames[: self.stored], self.fps, source.codec, width, height, source.source_fps, self.seen,
            source.source_bytes,
        )  # fmt: skip


def _decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    source: Source,
    collector: _Collector,
    skip: bool,
) -> bool:
    """Give every frame to `collector`; False if `skip` left out one that is kept, and it has to be done without."""
    packets: Iterator[av.Packet] | list[av.Packet] = _checked(container, stream)
    numbers: dict[int | None, int] = {}
    if skip and collector.step >= 1.5 and source.source_bytes <= _MAX_AHEAD_BYTES:
        packets = list(packets)
        numbers = _numbers(packets)
    if not numbers:
        counter = itertools.count()
        for packet in packets:
            for picture in packet.decode():
                collector.take(picture, next(counter))
        return True
    wanted = set(kept_frames(len(numbers), collector.step, 1.0)[0].tolist())
    for packet in packets:
        needed = numbers.get(packet.pts, -1) in wanted or not packet.size
        stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
        for picture in packet.decode():
            number = numbers.get(picture.pts)
            if number is None:
                return False
            collector.take(picture, number)
    collector.seen = len(numbers)
    return collector.stored == len(wanted)


def _checked(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream, and a fault if the container promised more."""
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise DecodeError("truncated", f"packet {count} is cut short")
        count += packet.size > 0
        yield packet
    if count < stream.frames:
        raise DecodeError("truncated", f"{count} of {stream.frames} packets are there")


def _numbers(packets: list[av.Packet]) -> dict[int | None, int]:
    """Presentation time -> frame number of the packets a player shows; empty if the times do not tell."""
    times = [packet.pts for packet in packets if packet.size and not packet.is_discard]
    known = sorted(time for time in times if time is not None)
    if len(set(known)) < len(times):
        return {}
    return {time: number for number, time in enumerate(known)}


def _size(path: Path) -> int:
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


def _open(path: Path) -> av.container.InputContainer:
    # As a file URL a name with a colon or a leading dash is neither a protocol nor an option.
    return av.open(
        f"file:{os.fspath(path)}",
        options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        metadata_errors="replace",
    )


def _gate(container: av.container.InputContainer, size: int) -> tuple[av.VideoStream, Source]:
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
    if stream.width * stream.height > MAX_FRAME_PIXELS or duration_s > MAX_DURATION_S or rate > MAX_FPS:
        raise DecodeError("too_large", f"{stream.width}x{stream.height}, {duration_s:.0f} s, {rate:g} frames/s")
    if rate <= 0 or not stream.width or not stream.height:
        raise DecodeError("unreadable", "has no frame rate or size")
    stream.codec_context.thread_count = 1  # one decoder a core: threads inside it only add delay
    source = Source(codec, stream.width, stream.height, rate, stream.frames, size, duration_s)
    return stream, source


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """FFmpeg's faults in opening a file, as ours."""
    try:
        yield
    except av.FFmpegError as error:
        raise DecodeError("io" if isinstance(error, OSError) else "unreadable", _words(error)) from None


def _words(error: av.FFmpegError) -> str:
    """What FFmpeg says, without the path: a shard holds the same bytes wherever its videos were."""
    logged = str(error.log[-1]).strip() if error.log else ""
    return f"{error.strerror}: {logged}" if logged else str(error.strerror)
