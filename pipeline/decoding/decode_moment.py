"""Decodes a moment of a video with PyAV, in full size and then fitted into a box; runs in the process of moment.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.container import ffmpeg_errors, gate, open_container
from pipeline.decoding.moment_worker import Answers, Wanted
from pipeline.decoding.resize import FrameResizer, display_matrix
from pipeline.decoding.video_file import DecodeError, VideoFile, open_video
from pipeline.decoding.with_pyav import pictures_of

_MOST_FPS = 62.0  # of a faster video frames are left out, as a screen would
_USUAL_FPS = 30.0  # where a file has no rate
_SAME_S = 1e-6  # times that differ by less are equal
_MOST_UNEQUAL = 20  # the sides of a pixel; a header with more is not believed


def decode_moment(path: Path, wanted: Wanted) -> Answers:
    """How the video is shown, and then each frame with its time.

    Raises:
        DecodeError: the file cannot be decoded, or has no frame there.
        ReadError: the machine could not read it.
    """
    with open_video(path) as file:
        for number, (shown, time_s, picture) in enumerate(_moment(file, wanted)):
            if number == 0:
                yield shown, None
            yield {"time_s": time_s}, picture


class _IndexIsWrong(Exception):
    """Pictures before the moment cannot be found by the index of the file."""


def _moment(file: VideoFile, wanted: Wanted) -> Iterator[tuple[dict[str, Any], float, NDArray[np.uint8]]]:
    """Header, time since the begin of the moment, and pixels (H, W, 3) uint8 RGB of each frame."""
    try:
        yield from _from(file, wanted, seek=wanted.start_s > 0)
    except _IndexIsWrong:
        yield from _from(file, wanted, seek=False)


def _from(file: VideoFile, wanted: Wanted, seek: bool) -> Iterator[tuple[dict[str, Any], float, NDArray[np.uint8]]]:
    with ffmpeg_errors(file), open_container(file) as container:
        stream, source = gate(container, file.size)
        fps = source.source_fps or _USUAL_FPS
        fps /= math.ceil(fps / _MOST_FPS)  # of 120 every other frame is left out
        rate = source.source_frames / source.duration_s if source.source_frames and source.duration_s else fps
        fit, last_s, shown = None, float("-inf"), {}
        for time_s, picture in _of_moment(_timed(container, stream, wanted.start_s if seek else None, rate), wanted):
            if fit is None:
                fit = _Fit(stream, picture, wanted.largest)
                shown = {"width": fit.width, "height": fit.height, "fps": fps, "video_s": source.duration_s}
            if time_s - last_s >= 1 / _MOST_FPS:
                yield shown, time_s, fit(picture)
                last_s = time_s
        if fit is None:
            raise DecodeError("unreadable", "no frame can be decoded")


def _timed(
    container: av.container.InputContainer, stream: av.VideoStream, near_s: float | None, rate: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures with their times in seconds since the first one of the video.

    Args:
        container: the file.
        stream: its video.
        near_s: begin at a picture that is not after this time; None: at the first.
        rate: pictures per second where the file has no times for them.
    """
    tick = stream.time_base or Fraction(1, 1000)
    origin = None if near_s is None else stream.start_time or 0
    if near_s is not None:
        try:
            container.seek((origin or 0) + int(near_s / tick), stream=stream)
        except av.FFmpegError:
            raise _IndexIsWrong from None
    last_s: float | None = None
    for packet in container.demux(stream):
        for picture in pictures_of(packet, stream):
            if origin is None:
                origin = picture.pts
            known = picture.pts is not None and origin is not None
            time_s = float((picture.pts - origin) * tick) if known else float("-inf")  # type: ignore[operator]
            if not known or (last_s is not None and time_s <= last_s):  # times are missing or do not rise
                if near_s is not None and (last_s is None or last_s <= near_s):
                    raise _IndexIsWrong
                time_s = 0.0 if last_s is None else last_s + 1 / rate
            elif near_s is not None and last_s is None and time_s > near_s:
                raise _IndexIsWrong
            last_s = time_s
            yield time_s, picture


def _of_moment(timed: Iterator[tuple[float, av.VideoFrame]], wanted: Wanted) -> Iterator[tuple[float, av.VideoFrame]]:
    """The pictures of a moment with their times since its begin; the one that is shown when it begins has time 0."""
    first: av.VideoFrame | None = None
    begun = False
    for time_s, picture in timed:
        since_s = time_s - wanted.start_s
        if since_s >= wanted.seconds:
            break
        if since_s <= _SAME_S and not begun:
            first = picture
            continue
        if not begun and first is not None:
            yield 0.0, first
        begun = True
        yield since_s, picture
    if not begun and first is not None:
        yield 0.0, first


class _Fit:
    """Makes pictures upright and fits them into a box in their display aspect."""

    def __init__(self, stream: av.VideoStream, picture: av.VideoFrame, largest: tuple[int, int]) -> None:
        pixel = float(stream.sample_aspect_ratio or 1)
        if not 1 / _MOST_UNEQUAL <= pixel <= _MOST_UNEQUAL:
            pixel = 1.0
        width, height = stream.width * pixel, float(stream.height)
        (a, b), _ = display_matrix(picture).tolist()
        if abs(b) > abs(a):  # it is shown turned by a quarter
            width, height = height, width
        scale = min(largest[0] / width, largest[1] / height)
        self.width, self.height = max(round(width * scale), 1), max(round(height * scale), 1)
        self._resize = FrameResizer(stream.height, stream.width, "area" if scale < 1 else "bicubic")

    def __call__(self, picture: av.VideoFrame) -> NDArray[np.uint8]:
        out = np.empty((self.height, self.width, 3), np.uint8)
        self._resize(picture, out)
        return out
