"""Reads the length of a Matroska or AVI file from its header, to find files that were cut short.

(An mp4's index lists every packet; see lost_parts.py.)
"""

from __future__ import annotations

from pipeline.decoding.video_file import Stream, VideoFile

EBML = bytes.fromhex("1a45dfa3")
_SEGMENT = bytes.fromhex("18538067")


def declared_bytes(video: VideoFile) -> int:
    """The size of a file by its own header; 0: unknown (live recordings, other formats).

    Raises:
        ReadError: the machine failed.
    """
    file = Stream(video)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        length = int.from_bytes(head[4:8], "little")
        return 8 + length if length else 0  # 0: the writer died before it wrote the length
    if head[:4] == EBML:
        file.seek(4)
        return _matroska_bytes(file)
    return 0


def _matroska_bytes(file: Stream) -> int:
    """The end of the segment, the second of the two outermost elements; `file` is just behind the id of the first."""
    header = _length(file)
    file.seek(header, 1)
    if header == 0 or file.read(4) != _SEGMENT:
        return 0
    length = _length(file)
    return file.tell() + length if length else 0


def _length(file: Stream) -> int:
    """Read an EBML length; 0 if it is unknown (all ones).

    The number of leading zero bits of the first byte is the number of bytes that follow:
    1xxxxxxx, 01xxxxxx xxxxxxxx, ...
    """
    first = file.read(1)
    if not first or not first[0]:
        return 0
    following = 8 - first[0].bit_length()
    raw = int.from_bytes(first + file.read(following), "big")
    mask = (1 << 7 * (following + 1)) - 1
    return 0 if raw & mask == mask else raw & mask


def avi_chunks(video: VideoFile, stream: int) -> tuple[int, bool]:
    """Whole chunks of pictures in an AVI file, where an empty one repeats the picture before it; and whether the index
    behind them is whole.

    Args:
        video: the file.
        stream: the number of its video stream.

    Raises:
        ReadError: the machine failed.
    """
    pictures, count, place, indexed = (b"%02ddc" % stream, b"%02ddb" % stream), 0, 0, False
    while len(head := video.read_at(place, 8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] in (b"RIFF", b"LIST"):
            place += 12  # what is in it
            continue
        place += 8 + length + length % 2
        whole = place <= video.size + 1
        count += whole and head[:4] in pictures
        indexed |= whole and head[:4] == b"idx1"
    return count, indexed
