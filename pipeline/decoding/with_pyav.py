"""Decodes with PyAV: every file with `preprocess.decoder: pyav`, otherwise those on which decord fails.

decord silently repeats frames of files cut without re-encoding, and fails on others.  Each stored frame is truly a
frame of the file.  Only kept frames are converted to RGB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import Source, ffmpeg_errors, ffmpeg_message
from pipeline.decoding.frames import MAX_STORED_BYTES, Allocate, DecodedVideo
from pipeline.decoding.packets import OpenVideo, Timing, holds_no_picture, open_packets
from pipeline.decoding.resample import resampling, seconds, since_first, ticks_between
from pipeline.decoding.resize import FrameResizer
from pipeline.decoding.resize_planes import PlaneResizer
from pipeline.decoding.video_file import DecodeError, VideoFile


def decode_with_pyav(file: VideoFile, settings: Preprocess, allocate: Allocate) -> DecodedVideo:
    """Decode a file.

    Raises:
        DecodeError: the file cannot be stored.
        ReadError: the machine failed.
    """
    try:
        return _decode(file, settings, allocate, by_time=True)
    except _TimesDoNotRise:
        return _decode(file, settings, allocate, by_time=False)


class _TimesDoNotRise(Exception):
    """The pictures of a video cannot be chosen by time."""


def _decode(file: VideoFile, settings: Preprocess, allocate: Allocate, by_time: bool) -> DecodedVideo:
    with open_packets(file) as video, ffmpeg_errors(file):
        timing = replace(video.timing, varying=video.timing.varying and by_time)
        collector = _Collector(settings, video.source, timing, allocate)
        try:
            for picture in every_picture(video):
                collector.take(picture)
        except av.error.MemoryError:
            raise
        except av.FFmpegError as error:
            status = "truncated" if collector.seen else "unreadable"
            raise DecodeError(status, f"after {collector.seen} frames: {ffmpeg_message(error)}") from None
    return collector.video()


def pictures_of(packet: av.Packet, stream: av.VideoStream) -> list[av.VideoFrame]:
    """The pictures that a decoder gives for a packet."""
    try:
        return packet.decode()
    except av.error.InvalidDataError:  # FFmpeg takes an H.264 packet without a picture for an error
        if holds_no_picture(packet, stream):
            return []
        raise


def every_picture(video: OpenVideo) -> Iterator[av.VideoFrame]:
    """The pictures of a video in the order in which they are shown.

    Raises:
        av.FFmpegError: one cannot be decoded.
    """
    for packet in video.packets:
        yield from pictures_of(packet, video.stream)
    yield from video.stream.decode(None)


class _Collector:
    """Takes the pictures of a video in order and keeps those that the recipe stores."""

    def __init__(self, settings: Preprocess, source: Source, timing: Timing, allocate: Allocate) -> None:
        self.step, self.fps = resampling(timing.rate, settings.fps)
        self.source, self.timing, self.seen = source, timing, 0
        self._next = 0  # the number of the next stored frame, if they are chosen by number
        self._every: Fraction | None = None  # ticks from one stored frame to the next, if they are chosen by time
        if timing.varying and self.step != 1:
            self._every = ticks_between(timing.tick_s, self.fps)
        self.size = (0, 0)
        # Where decord is the recipe's decoder, frames must not show which one gave them.
        resizer = PlaneResizer if settings.decoder == "pyav" else FrameResizer
        self._resize = resizer(source.source_height, source.source_width, settings.interpolation)
        self._shape = (settings.height, settings.width, 3)
        # Rates are means, so there may be more frames than expected.  Pages that are never written use no memory.
        expected = timing.span_s * self.fps if self._every else timing.shown / float(self.step)
        self._limit = MAX_STORED_BYTES // (settings.height * settings.width * 3)
        if expected > self._limit:
            raise DecodeError("too_large", f"{expected:.0f} stored frames, at most {self._limit}")
        self._frames = allocate((int(expected) + 2, *self._shape))
        self._pts: list[int | None] = []  # of all pictures
        self._indices: list[int] = []
        self._last: av.VideoFrame | None = None

    def take(self, picture: av.VideoFrame) -> None:
        """Store a picture, or the one before it, as often as the recipe says."""
        self._pts.append(picture.pts)
        self.seen += 1
        if self._every is None:
            if self.seen - 1 == self._next:
                self._store(picture, self.seen - 1)
                self._next = int(len(self._indices) * self.step)
            return
        if self._last is not None:
            now = self._since_first(self.seen - 1)
            if now <= self._since_first(self.seen - 2):
                raise _TimesDoNotRise
            while len(self._indices) * self._every < now:
                self._store(self._last, self.seen - 2)
        self._last = picture

    def _since_first(self, number: int) -> int:
        """Ticks from the first picture to another."""
        first, this = self._pts[0], self._pts[number]
        if first is None or this is None:
            raise _TimesDoNotRise
        return this - first

    def _store(self, picture: av.VideoFrame, index: int) -> None:
        stored = len(self._indices)
        if stored == len(self._frames):
            if stored >= self._limit:
                raise DecodeError("too_large", f"more than {self._limit} stored frames")
            added = np.empty((min(2 * stored, self._limit) - stored, *self._shape), np.uint8)
            self._frames = np.concatenate([self._frames, added])
        self.size = self._resize(picture, self._frames[stored])
        self._indices.append(index)

    def video(self) -> DecodedVideo:
        """The frames kept; `seen` is the number of source frames.

        Raises:
            DecodeError: there is none.
        """
        if self._every is not None and self._last is not None:
            while len(self._indices) * self._every <= self._since_first(self.seen - 1):
                self._store(self._last, self.seen - 1)
        if not self._indices:
            raise DecodeError("unreadable", "no frame can be decoded")
        height, width = self.size
        indices = np.array(self._indices)
        known = [pts for pts in self._pts if pts is not None]
        believed = len(self.timing.ticks) > 0 and len(known) == self.seen
        ticks = np.array(known) - known[0] if believed else np.full(self.seen, np.nan)
        times_s = since_first(seconds(ticks, self.timing.tick_s), np.arange(self.seen), self.timing.rate)[indices]
        source = replace(self.source, source_width=width, source_height=height, source_frames=self.seen)
        chosen_by = "time" if self.timing.varying else ""
        return DecodedVideo(self._frames[: len(indices)], times_s, self.fps, source, "pyav", chosen_by)
