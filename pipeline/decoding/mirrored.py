"""Finds videos that are shown mirrored; decord turns pictures but mirrors none."""

from __future__ import annotations

import numpy as np

from pipeline.decoding.container import ffmpeg_errors, gate, open_container
from pipeline.decoding.declared_length import EBML
from pipeline.decoding.fragments import boxes
from pipeline.decoding.resize import display_matrix
from pipeline.decoding.video_file import DecodeError, VideoFile

_HEADER_BYTES = 256 << 10
# Matroska has no mirror: FFmpeg takes a picture turned about its upright or level axis (yaw, pitch) for one.  These are
# the two elements, each with a length of 4 or 8; by chance they may be in any file.
_POSES = tuple(bytes.fromhex(element) for element in ("767384", "767388", "767484", "767488"))


def is_mirrored(file: VideoFile) -> bool:
    """Whether a video is shown mirrored, also if it is turned too.

    Raises:
        ReadError: the machine failed.
    """
    head = file.read_at(0, 4)
    if head == b"RIFF":  # AVI has no orientation
        return False
    if head != EBML:
        return _has_mirrored_track(file)
    header = file.read_at(0, _HEADER_BYTES)
    return any(pose in header for pose in _POSES) and _is_first_picture_mirrored(file)


def _is_first_picture_mirrored(file: VideoFile) -> bool:
    try:
        with ffmpeg_errors(file), open_container(file) as container:
            stream, _ = gate(container, file.size)
            picture = next(container.decode(stream), None)
            return picture is not None and bool(np.linalg.det(display_matrix(picture).astype(np.float64)) < 0)
    except DecodeError:  # what is wrong with it, the decoders say
        return False


def _has_mirrored_track(file: VideoFile) -> bool:
    for kind, _, moov, moov_end in boxes(file, 0, file.size):
        for track, _, start, end in boxes(file, moov, moov_end) if kind == b"moov" else ():
            for header, _, body, _ in boxes(file, start, end) if track == b"trak" else ():
                if header == b"tkhd":
                    content = file.read_at(body, 96)
                    matrix = np.frombuffer(content, ">i4", 5, 52 if content[:1] == b"\1" else 40).astype(np.float64)
                    a, b, _, c, d = matrix.tolist()
                    if a * d < b * c:
                        return True
    return False
