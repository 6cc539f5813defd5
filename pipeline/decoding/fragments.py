"""Reads the outermost boxes of a fragmented mp4, to find a file that was cut between fragments or lacks one.

FFmpeg plays such a file without the lost part.  The index (sidx) says how many bytes belong to the file, the header
(mehd) how long it is, and each fragment (mfhd) its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.decoding.video_file import VideoFile


@dataclass(frozen=True)
class Fragments:
    """What a fragmented mp4 says of its parts.

    Attributes:
        declared_bytes: where the file should end by its indexes; 0: unknown.
        declared_s: its length in seconds by its header; 0: unknown.
        after_gaps: where each fragment begins whose number does not follow that of the fragment before it.
    """

    declared_bytes: int
    declared_s: float
    after_gaps: list[int]


def read_fragments(file: VideoFile) -> Fragments:
    """Read the boxes of an mp4; of a file that is not fragmented, all is unknown.

    Raises:
        ReadError: the machine failed.
    """
    declared_bytes, declared_s, gaps, last = 0, 0.0, [], None
    for kind, start, body, end in boxes(file, 0, file.size):
        if kind == b"sidx":
            declared_bytes = max(declared_bytes, _end_of_indexed(file.read_at(body, end - body), end))
        elif kind == b"moov":
            declared_s = _declared_s(file, body, end)
        elif kind == b"moof":
            number = _number(file, body, end)
            if last is not None and number > last + 1:
                gaps.append(start)
            last = number
    return Fragments(declared_bytes, declared_s, gaps)


def boxes(file: VideoFile, place: int, limit: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind, start, start of the content and end of each box in a part of a file; one that is cut short is not given."""
    while place + 8 <= limit:
        head = file.read_at(place, 16)
        length, body = int.from_bytes(head[:4], "big"), place + 8
        if length == 1:
            length, body = int.from_bytes(head[8:16], "big"), place + 16
        end = place + length if length else limit
        if end < body or end > limit:
            return
        yield head[4:8], place, body, end
        place = end


def _end_of_indexed(sidx: bytes, end: int) -> int:
    """Where the last part that an index lists should end; `end` is where the index ends."""
    wide = 8 if sidx[:1] == b"\1" else 4
    at = 12 + wide
    place = end + int.from_bytes(sidx[at : at + wide], "big")
    entries = at + wide + 4
    count = int.from_bytes(sidx[entries - 2 : entries], "big")
    sizes = [int.from_bytes(sidx[entries + 12 * k : entries + 12 * k + 4], "big") & 0x7FFFFFFF for k in range(count)]
    return place + sum(sizes)


def _declared_s(file: VideoFile, body: int, end: int) -> float:
    """The length of the whole file in seconds, by the header of its fragments."""
    scale = ticks = 0
    for kind, _, inner, last in boxes(file, body, end):
        if kind == b"mvhd":
            content = file.read_at(inner, 32)
            scale = int.from_bytes(content[20:24] if content[:1] == b"\1" else content[12:16], "big")
        elif kind == b"mvex":
            for deeper, _, start, stop in boxes(file, inner, last):
                if deeper == b"mehd":
                    content = file.read_at(start, stop - start)
                    ticks = int.from_bytes(content[4:12] if content[:1] == b"\1" else content[4:8], "big")
    return ticks / scale if scale else 0.0


def _number(file: VideoFile, body: int, end: int) -> int:
    """The number of a fragment, by its header; 0: it has none."""
    for kind, _, inner, _ in boxes(file, body, end):
        if kind == b"mfhd":
            return int.from_bytes(file.read_at(inner + 4, 4), "big")
    return 0
