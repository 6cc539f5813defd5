"""What the packets of a video say before decoding: when frames are shown, at which rate, whether some are lost.

Headers are believed only where packets agree: some say 1,000 frames/s, count frames that never were, or were written
for a file of which this is a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import container as containers
from pipeline.decoding.container import Source, ffmpeg_errors, gate, open_container
from pipeline.decoding.video_file import DecodeError, VideoFile

_STEADY_S = 1e-3  # a time may be so far from that of a constant rate, or one unit of time if that is longer


@dataclass(frozen=True)
class Timing:
    """When the frames of a video are shown, by its packets.

    Attributes:
        shown: packets that a player shows; those hidden by an edit list are not counted.
        ticks: (n,) int64, the different times of these in order, since the first; empty: too few are known.
        tick_s: seconds of one.
        rate: frames per second on average.
        varying: whether the rate varies, so that frames are chosen by time.
    """

    shown: int
    ticks: NDArray[np.int64]
    tick_s: Fraction
    rate: float
    varying: bool


def read_timing(file: VideoFile) -> tuple[Source, Timing]:
    """Read every packet of a file; the source's rate is that of its packets.

    Raises:
        DecodeError: the file is not admitted, or a part of it is lost.
        ReadError: the machine failed.
    """
    with ffmpeg_errors(file), open_container(file) as container:
        stream, source = gate(container, file.size)
        packets = list(all_packets(container, stream))
        timing = timing_of(packets, stream.time_base or Fraction(1, 1000), source.source_fps, source.duration_s)
    if timing.rate <= 0:
        raise DecodeError("unreadable", "no frame rate")
    if timing.rate > containers.MAX_FPS:
        raise DecodeError("too_large", f"{timing.rate:g} frames/s, at most {containers.MAX_FPS:g}")
    return replace(source, source_fps=timing.rate), timing


def all_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream that hold data.

    Raises:
        DecodeError: one is cut short, or there are fewer than the container says.
    """
    count = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise DecodeError("truncated", f"packet {count} is cut short")
        if packet.size:
            count += 1
            yield packet
    if count < stream.frames:
        raise DecodeError("truncated", f"file has {count} of {stream.frames} packets")


def timing_of(packets: list[av.Packet], tick_s: Fraction, declared: float, declared_s: float) -> Timing:
    """When frames are shown.

    Args:
        packets: all that hold data.
        tick_s: the unit of their times.
        declared: frames per second by the header; 0: unknown.
        declared_s: seconds of the video by the header; 0: unknown.
    """
    shown = [packet.pts for packet in packets if not packet.is_discard]
    # A hidden VP8 picture has the time of the next one.  Where most frames have no time of their own, no time is right.
    ticks = np.array(sorted({pts for pts in shown if pts is not None}), np.int64)
    if len(ticks) < 2 or 2 * len(ticks) <= len(shown):
        rate = declared
        if declared_s and abs(declared * declared_s - len(shown)) > 1:
            rate = len(shown) / declared_s
        return Timing(len(shown), ticks[:0], tick_s, rate, varying=False)
    ticks -= ticks[0]
    rate, varying = _rate(ticks, tick_s, declared)
    return Timing(len(shown), ticks, tick_s, rate, varying)


def _rate(ticks: NDArray[np.int64], tick_s: Fraction, declared: float) -> tuple[float, bool]:
    """Mean rate, and whether it varies.

    The header's rate of a constant one is kept, also if it counts a frame more or less: times are rounded, and
    30000/1001 cannot be found in them.
    """
    times_s, numbers = ticks * float(tick_s), np.arange(len(ticks))
    tolerance_s = max(_STEADY_S, float(tick_s)) + 1e-6

    def steady(rate: float) -> bool:
        return rate > 0 and bool(np.abs(times_s - numbers / rate).max() <= tolerance_s)

    mean = numbers[-1] / times_s[-1]
    if steady(declared) or (steady(mean) and abs(declared * times_s[-1] - numbers[-1]) <= 1):
        return declared, False
    for rate in (float(round(mean)), round(mean * 1.001) / 1.001, mean):
        if steady(rate):
            return rate, False
    return len(ticks) / (2 * times_s[-1] - times_s[-2]), True  # the last frame is shown as long as the one before it
