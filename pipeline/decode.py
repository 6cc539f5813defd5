"""One video file to stored frames: the gate, then decord, and PyAV where decord cannot or would repeat frames.

The only module that imports decord.  Whatever a file makes a decoder raise ends in one DecodeError; what makes it hang
or crash is isolate.py's.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import decord
import numpy as np

from pipeline.container import DecodeError, Source, faults, file_size, gate, open_container, probe
from pipeline.frames import MAX_STORED_BYTES, Video, kept_frames
from pipeline.pixels import INTERPOLATIONS
from pipeline.recipe import Preprocess
from pipeline.second_decoder import checked, decode_with_pyav, frame_numbers

__all__ = ["MAX_STORED_BYTES", "DecodeError", "Video", "decode_video", "kept_frames", "probe"]

_CHUNK_BYTES = 32 << 20  # of source RGB held at once

decord.logging.set_level(decord.logging.QUIET)


def decode_video(path: Path, settings: Preprocess) -> Video:
    """Decode a file into the frames that the recipe stores.

    Raises:
        DecodeError: with the ledger status that fits.
    """
    size = file_size(path)
    video = (
        _decode_with_decord(path, size, settings)
        or decode_with_pyav(path, size, settings, skip=True)
        or decode_with_pyav(path, size, settings, skip=False)
    )
    if file_size(path) != size or video is None:
        raise DecodeError("io", "changed while it was decoded")
    return video


def _decode_with_decord(path: Path, size: int, settings: Preprocess) -> Video | None:
    """Decode with decord; None where its frames would not be the file's own.

    The container's packets say how many frames a player shows.  decord counts more of them on a cut made without
    re-encoding, and fills the surplus with copies of the last frame; such a file is left to the second decoder, and
    so is one that decord raises on.
    """
    with faults(), open_container(path) as container:
        stream, source = gate(container, size)
        shown = len(frame_numbers(list(checked(container, stream)))) if size <= _CHUNK_BYTES else source.source_frames
    indices, fps = kept_frames(shown, source.source_fps, settings.fps)
    if not shown or len(indices) * settings.height * settings.width * 3 > MAX_STORED_BYTES:
        return None
    try:
        # One thread, as every core has a decoder of its own; the first repeated frame is a fault.
        reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
        return _read(reader, indices, fps, source, settings) if len(reader) == shown else None
    except Exception:  # decord raises RuntimeError, AssertionError, IndexError and kinds of its own
        return None


def _read(reader: decord.VideoReader, indices: np.ndarray, fps: float, source: Source, settings: Preprocess) -> Video:
    """Take the kept frames out of a reader in order, some at a time."""
    height, width = reader[0].shape[:2]  # upright: decord turns what is stored lying
    reader.seek(0)
    frames = np.empty((len(indices), settings.height, settings.width, 3), np.uint8)
    chunk = max(1, _CHUNK_BYTES // (height * width * 3))
    method = INTERPOLATIONS[settings.interpolation]
    for start in range(0, len(indices), chunk):
        pictures = reader.get_batch(indices[start : start + chunk].tolist()).asnumpy()
        for picture, out in zip(pictures, frames[start:], strict=False):
            cv2.resize(picture, (settings.width, settings.height), dst=out, interpolation=method)
    count = len(reader)
    return Video(frames, fps, source.codec, width, height, source.source_fps, count, source.source_bytes)
