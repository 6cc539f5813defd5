"""Decodes with PyAV the files on which decord fails, so that every stored frame is truly a frame of the file.

decord is tried first (decode.py).  It silently repeats frames of files cut without re-encoding, and fails on others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import Source, ffmpeg_errors, ffmpeg_message, gate, open_container
from pipeline.decoding.frames import MAX_STORED_BYTES, DecodedVideo
from pipeline.decoding.resample import kept_frames, resampling, since_first
from pipeline.decoding.resize import FrameResizer
from pipeline.decoding.video_file import DecodeError, VideoFile

# Packets of files up to this size are all read before the first is decoded.  Their times give the number of each frame,
# so that a frame which is neither kept nor needed for another one is not decoded at all.
_MAX_AHEAD_BYTES = 64 << 20


def decode_with_pyav(file: VideoFile, settings: Preprocess, skip: bool) -> DecodedVideo | None:
    """Decode a file; None if a frame to keep was lost by `skip`: try again without it.

    Raises:
        DecodeError: the file cannot be stored.
        ReadError: the machine failed.
    """
    with ffmpeg_errors(file), open_container(file) as container:
        stream, source = gate(container, file.size)
        collector = _Collector(settings, source)
        try:
            complete = _decode(container, stream, source, collector, skip and source.codec == "h264")
        except av.error.MemoryError:
            raise
        except av.FFmpegError as error:
            status = "truncated" if collector.seen else "unreadable"
            raise DecodeError(status, f"after {collector.seen} frames: {ffmpeg_message(error)}") from None
    return collector.video() if complete else None


class _Collector:
    """Takes the pictures of a video in order and keeps those that the recipe stores."""

    def __init__(self, settings: Preprocess, source: Source) -> None:
        self.step, self.fps = resampling(source.source_fps, settings.fps)
        self.source, self.seen, self.stored = source, 0, 0
        self.size = (0, 0)
        self._resize = FrameResizer(source.source_height, source.source_width, settings.interpolation)
        self._shape = (settings.height, settings.width, 3)
        # Rates are means, so there may be more frames than expected.  Pages that are never written use no memory.
        expected = max(source.source_frames, source.duration_s * source.source_fps) / float(self.step)
        self._limit = MAX_STORED_BYTES // (settings.height * settings.width * 3)
        if expected > self._limit:
            raise DecodeError("too_large", f"{expected:.0f} stored frames, at most {self._limit}")
        self._frames = np.empty((int(expected) + 2, *self._shape), np.uint8)
        self._times_s: list[float] = []
        self._indices: list[int] = []

    def take(self, picture: av.VideoFrame, index: int) -> None:
        """Resize source frame `index` if it is to be stored."""
        self.seen += 1
        if index != int(self.stored * self.step):
            return
        if self.stored == len(self._frames):
            if self.stored >= self._limit:
                raise DecodeError("too_large", f"more than {self._limit} stored frames")
            added = np.empty((min(2 * self.stored, self._limit) - self.stored, *self._shape), np.uint8)
            self._frames = np.concatenate([self._frames, added])
        self.size = self._resize(picture, self._frames[self.stored])
        self._times_s.append(math.nan if picture.time is None else picture.time)
        self._indices.append(index)
        self.stored += 1

    def video(self) -> DecodedVideo:
        """The frames kept; `seen` is the number of source frames.

        Raises:
            DecodeError: there is none.
        """
        if not self.stored:
            raise DecodeError("unreadable", "no frame can be decoded")
        height, width = self.size
        times_s = since_first(np.array(self._times_s), np.array(self._indices), self.source.source_fps)
        source = replace(self.source, source_width=width, source_height=height, source_frames=self.seen)
        return DecodedVideo(self._frames[: self.stored], times_s, self.fps, source, "pyav")


def _decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    source: Source,
    collector: _Collector,
    skip: bool,
) -> bool:
    """Give every frame to `collector`; False if a frame to keep was lost by `skip`."""
    packets: Iterator[av.Packet] | list[av.Packet] = all_packets(container, stream)
    numbers: dict[int | None, int] = {}
    if skip and collector.step >= 1.5 and source.source_bytes <= _MAX_AHEAD_BYTES:
        packets = list(packets)
        numbers = frame_numbers(packets)
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


def all_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream.

    Raises:
        DecodeError: one is cut short, or there are fewer than the container says.
    """
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise DecodeError("truncated", f"packet {count} is cut short")
        count += packet.size > 0
        yield packet
    if count < stream.frames:
        raise DecodeError("truncated", f"file has {count} of {stream.frames} packets")


def frame_numbers(packets: list[av.Packet]) -> dict[int | None, int]:
    """Presentation time -> frame number of the packets that a player shows; empty if times are missing or repeat."""
    times = [packet.pts for packet in packets if packet.size and not packet.is_discard]
    known = sorted(time for time in times if time is not None)
    if len(set(known)) < len(times):
        return {}
    return {time: number for number, time in enumerate(known)}
