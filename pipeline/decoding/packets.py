"""What the packets of a video say before decoding: when frames are shown, at which rate.

A header's rate is believed only where packets agree: some say 1,000 frames/s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import container as containers
from pipeline.decoding.container import Source, ffmpeg_errors, gate, open_container
from pipeline.decoding.lost_parts import Packet, Packets, check_end, check_packets, missing_bytes
from pipeline.decoding.video_file import DecodeError, VideoFile

_STEADY_S = 1e-3  # a time may be so far from that of a constant rate, or one unit of time if that is longer
_KEPT_BYTES = 64 << 20  # the packets of a larger file are read again to be decoded,
_KEPT_PACKETS = 20_000  # and so are more than these, each of which takes a kilobyte beside its data


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

    @property
    def span_s(self) -> float:
        """Seconds from the first time to the last; 0: unknown."""
        return float(int(self.ticks[-1]) * self.tick_s) if len(self.ticks) else 0.0


@dataclass(frozen=True)
class OpenVideo:
    """A video whose packets were read, open for decoding.

    Attributes:
        source: what its container says; the rate is that of its packets.
        timing: when its frames are shown.
        stream: the video stream.
        packets: those of it that hold data, in the order of decoding, once.
    """

    source: Source
    timing: Timing
    stream: av.VideoStream
    packets: Iterable[av.Packet]


def read_timing(file: VideoFile) -> tuple[Source, Timing]:
    """Read every packet of a file; the source's rate is that of its packets.

    Raises:
        DecodeError: the file is not admitted, or a part of it is lost.
        ReadError: the machine failed.
    """
    with open_packets(file) as video:
        return video.source, video.timing


@contextlib.contextmanager
def open_packets(file: VideoFile, longest_s: float | None = None) -> Iterator[OpenVideo]:
    """Read and check every packet of a file, and keep it open for decoding; a small file is read only once.

    Args:
        file: the video.
        longest_s: seconds that it may last; None: MAX_DURATION_S.

    Raises:
        DecodeError: the file is not admitted, or a part of it is lost.
        ReadError: the machine failed.
    """
    longest_s = containers.MAX_DURATION_S if longest_s is None else longest_s
    with contextlib.ExitStack() as opened:
        try:
            with ffmpeg_errors(file):
                container = opened.enter_context(open_container(file))
                stream, source = gate(container, file.size)
                packets: list[av.Packet] = []
                timing = _read(file, container, stream, source, packets, longest_s)
                if not packets:
                    container = opened.enter_context(open_container(file))
                    stream, _ = gate(container, file.size)
        except DecodeError as error:
            if error.status in ("unreadable", "no_video_stream") and (lost := missing_bytes(file)):
                raise DecodeError("truncated", lost) from None
            raise
        _check(timing, longest_s)
        again = (packet for packet in container.demux(stream) if packet.size)
        yield OpenVideo(replace(source, source_fps=timing.rate), timing, stream, packets or again)


def _read(
    file: VideoFile,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    source: Source,
    kept: list[av.Packet],
    longest_s: float,
) -> Timing:
    """Read and check every packet of a stream; of a small and short file, those that hold data are added to `kept`."""
    facts, keep = Packets(), file.size <= _KEPT_BYTES
    for packet in container.demux(stream):
        if packet.size:
            facts.append(_facts(packet))
            if keep:
                kept.append(packet)
            if len(kept) > _KEPT_PACKETS:
                kept.clear()
                keep = False
    tick_s = stream.time_base or Fraction(1, 1000)
    check_packets(file, container, stream, facts)
    timing = timing_of(facts, tick_s, source.source_fps, source.duration_s, longest_s)
    check_end(file, container, facts, tick_s, timing.rate)
    return timing


def _check(timing: Timing, longest_s: float) -> None:
    """Check what packets say of a video's rate and length.

    Raises:
        DecodeError: no decoder may try it.
    """
    if timing.rate <= 0:
        raise DecodeError("unreadable", "no frame rate")
    if timing.rate > containers.MAX_FPS:
        raise DecodeError("too_large", f"{timing.rate:g} frames/s, at most {containers.MAX_FPS:g}")
    if (length_s := max(timing.shown / timing.rate, timing.span_s)) > longest_s:
        raise DecodeError("too_large", f"{length_s:.0f} s, at most {longest_s:.0f}")


def _facts(packet: av.Packet) -> Packet:
    if packet.is_keyframe and packet.has_sidedata("encryption_info"):
        raise DecodeError("unreadable", "the video is encrypted; no key is known here")
    return Packet(packet.pts, packet.dts, packet.duration or 0, packet.pos or 0, packet.is_discard, packet.is_corrupt)


def timing_of(
    packets: Sequence[Packet], tick_s: Fraction, declared: float, declared_s: float, longest_s: float
) -> Timing:
    """When frames are shown.

    Args:
        packets: all that hold data.
        tick_s: the unit of their times.
        declared: frames per second by the header; 0: unknown.
        declared_s: seconds of the video by the header; 0: unknown.
        longest_s: that it is believed to last at most.
    """
    shown = sum(not packet.is_discard for packet in packets)
    given = (packet.pts for packet in packets if not packet.is_discard and packet.pts is not None)
    ticks = np.unique(np.fromiter(given, np.int64))
    # A hidden VP8 picture has the time of the next one.  Where most frames have no time of their own, or one comes an
    # hour after another (a counter that overflowed), no time is right.
    jump = int(np.diff(ticks).max(initial=0)) * tick_s
    if len(ticks) < 2 or 2 * len(ticks) <= shown or jump > containers.MAX_DURATION_S:
        rate = declared
        if 0 < declared_s <= longest_s and abs(declared * declared_s - shown) > 1:
            rate = shown / declared_s
        return Timing(shown, ticks[:0], tick_s, rate, varying=False)
    ticks -= ticks[0]
    rate, varying = _rate(ticks, tick_s, declared)
    return Timing(shown, ticks, tick_s, rate, varying)


def _rate(ticks: NDArray[np.int64], tick_s: Fraction, declared: float) -> tuple[float, bool]:
    """Mean rate, and whether it varies.

    The header's rate of a constant one is kept, also if it counts a frame more or less: times are rounded, and
    30000/1001 cannot be found in them.
    """
    times_s, numbers = ticks * float(tick_s), np.arange(len(ticks))
    tolerance_s = max(_STEADY_S, float(tick_s)) + 1e-6

    def steady(rate: float) -> bool:
        return rate > 0 and bool(np.abs(times_s - numbers / rate).max() <= tolerance_s)

    mean = float(numbers[-1] / (int(ticks[-1]) * tick_s))
    if steady(declared) or (steady(mean) and abs(declared * times_s[-1] - numbers[-1]) <= 1):
        return declared, False
    for rate in (float(round(mean)), round(mean * 1.001) / 1.001, mean):
        if steady(rate):
            return rate, False
    length = 2 * int(ticks[-1]) - int(ticks[-2])  # the last frame is shown as long as the one before it
    return float(len(ticks) / (length * tick_s)), True


def holds_no_picture(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Whether an intact packet of H.264 holds only other data, such as the end of a sequence or padding."""
    if stream.codec_context.name != "h264":
        return False
    data, header = bytes(packet), stream.codec_context.extradata or b""
    if header[:1] != b"\1":  # units begin with 00 00 01
        units = [unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:]]
    else:
        units, place, wide = [], 0, (header[4] & 3) + 1
        while place < len(data):
            length = int.from_bytes(data[place : place + wide], "big")
            units.append(data[place + wide : place + wide + length])
            place += wide + length
        if place != len(data):
            return False
    return bool(units) and all(unit and unit[0] >> 7 == 0 and 6 <= unit[0] & 31 <= 13 for unit in units)
