"""Finds videos of which a part is lost; FFmpeg plays such a file as if it ended there, or without the part.

A header may claim too much: more bytes, frames or seconds than there ever were.  That alone is no loss.  Two claims of
different kinds that both fail are, and so is a packet that is listed and not there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, overload

import av

from pipeline.decoding.container import open_container
from pipeline.decoding.declared_length import avi_chunks, declared_bytes
from pipeline.decoding.fragments import read_fragments
from pipeline.decoding.video_file import DecodeError, VideoFile

_UNKNOWN = -(2**63)  # FFmpeg's own number of a time that is not known
_MOST_MISSING_S = 0.1  # by which the tracks of a whole file may be shorter than its header says


class Packet(NamedTuple):
    """What is read of a packet that holds data; times are in units of its stream, `pos` is its place in the file."""

    pts: int | None
    dts: int | None
    duration: int
    pos: int
    is_discard: bool
    is_corrupt: bool


class Packets(Sequence[Packet]):
    """The packets of a video in the order of decoding, in 33 bytes each, because hours of video have a million."""

    def __init__(self) -> None:
        self._columns = (array("q"), array("q"), array("q"), array("q"))
        self._flags = array("B")

    def append(self, packet: Packet) -> None:
        """Add a packet."""
        for column, value in zip(self._columns, packet[:4], strict=True):
            column.append(_UNKNOWN if value is None else value)
        self._flags.append(packet.is_discard | packet.is_corrupt << 1)

    def __len__(self) -> int:
        return len(self._flags)

    def __iter__(self) -> Iterator[Packet]:
        return (self[number] for number in range(len(self)))

    @overload
    def __getitem__(self, number: int) -> Packet: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Packet]: ...

    def __getitem__(self, number: int | slice) -> Packet | Sequence[Packet]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        pts, dts, duration, pos = (column[number] for column in self._columns)
        flags = self._flags[number]
        return Packet(_known(pts), _known(dts), duration, pos, bool(flags & 1), bool(flags & 2))


def _known(time: int) -> int | None:
    return None if time == _UNKNOWN else time


def missing_bytes(file: VideoFile) -> str:
    """How many bytes are missing by the file's own header, in words; empty: none."""
    declared = declared_bytes(file)
    return f"file has {file.size} of {declared} bytes" if declared > file.size + 1 else ""  # AVI pads to even lengths


def check_packets(
    file: VideoFile, container: av.container.InputContainer, stream: av.VideoStream, packets: Sequence[Packet]
) -> None:
    """Compare the packets of a video with those that its index lists; an empty one in the list shows nothing.

    Raises:
        DecodeError: one is cut short, or missing.
    """
    cut = next((number for number, packet in enumerate(packets) if packet.is_corrupt), None)
    if cut is not None:
        raise DecodeError("truncated", f"packet {cut} is cut short")
    if len(packets) >= stream.frames:
        return
    if container.format.name == "avi":
        lost = avi_chunks(file, stream.index)[0] < stream.frames
    else:
        lost = len(packets) < sum(entry.size > 0 for entry in stream.index_entries)
    if lost:
        raise DecodeError("truncated", f"file has {len(packets)} of {stream.frames} packets")


def check_end(
    file: VideoFile, container: av.container.InputContainer, packets: Sequence[Packet], tick_s: Fraction, rate: float
) -> None:
    """Compare the end of a video with what its header says of bytes and seconds.

    Args:
        file: the video.
        container: the same, open.
        packets: of its video stream, in the order of decoding.
        tick_s: the unit of their times.
        rate: frames per second on average; 0: unknown.

    Raises:
        DecodeError: it ends too early, or a part in its middle is missing.
    """
    if container.format.name.startswith("mov"):
        _check_fragments(file, packets, tick_s)
    elif (lost := missing_bytes(file)) and not _all_is_there(file, container, packets, tick_s, rate):
        raise DecodeError("truncated", lost)


def _all_is_there(
    file: VideoFile, container: av.container.InputContainer, packets: Sequence[Packet], tick_s: Fraction, rate: float
) -> bool:
    """Whether a file that is shorter than its header says has all its frames by another count."""
    if container.format.name == "avi":
        stream = container.streams.best("video")
        count, indexed = avi_chunks(file, stream.index) if stream else (0, False)
        return stream is not None and indexed and count >= stream.frames > 0
    if not container.duration or not rate:
        return False
    ends = (float((packet.pts + packet.duration) * tick_s) for packet in packets if packet.pts is not None)
    return max(ends, default=0.0) >= container.duration / av.time_base - 0.5 / rate


def _check_fragments(file: VideoFile, packets: Sequence[Packet], tick_s: Fraction) -> None:
    fragments = read_fragments(file)
    if fragments.declared_bytes > file.size:
        raise DecodeError("truncated", f"file has {file.size} of {fragments.declared_bytes} bytes")
    for place in fragments.after_gaps:
        after = next((number for number, packet in enumerate(packets) if packet.pos > place), 0)
        if not after:
            continue
        last, first = packets[after - 1], packets[after]
        if last.dts is None or first.dts is None or not last.duration:
            continue
        hole = first.dts - last.dts - last.duration
        if hole > last.duration / 2:
            raise DecodeError("truncated", f"{float(hole * tick_s):.3g} s are missing after packet {after}")
    if fragments.declared_s:
        length_s = _length_s(file)
        if length_s < fragments.declared_s - _MOST_MISSING_S:
            raise DecodeError("truncated", f"file has {length_s:.2f} of {fragments.declared_s:.2f} s")


def _length_s(file: VideoFile) -> float:
    """Seconds from the first to the last packet of all tracks: a header counts the longest."""
    starts, ends = [], []
    with open_container(file) as container:
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.time_base:
                starts.append(float(packet.pts * packet.time_base))
                ends.append(float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return max(ends, default=0.0) - min(starts, default=0.0)
