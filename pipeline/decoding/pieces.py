"""Decodes a video of any length in order, some frames at a time, in memory that does not grow with its length.

The frames are those that a shard would hold of it, also if it is too long for one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
from pipeline.decoding.container import ffmpeg_errors, ffmpeg_message
from pipeline.decoding.packets import open_packets
from pipeline.decoding.resample import kept_by_time, kept_frames, seconds, since_first
from pipeline.decoding.resize import FrameResizer
from pipeline.decoding.resize_planes import PlaneResizer
from pipeline.decoding.video_file import DecodeError, open_video
from pipeline.decoding.with_pyav import every_picture

LONGEST_S = 24 * 3600.0
_MOST_BYTES = 1 << 40


class PieceReader:
    """The stored frames of one video, in order.

    Always with PyAV: decord's index of a long video is large.

    Args:
        path: the file.
        settings: the recipe; a file that is outside its `data_root`, if it has one, is refused.

    Raises:
        DecodeError: the file is not admitted.
        ReadError: the machine failed.
    """

    def __init__(self, path: Path, settings: Preprocess) -> None:
        self._opened = contextlib.ExitStack()
        self._file = open_video(path, settings.data_root, _MOST_BYTES)
        self._opened.callback(self._file.close)
        video = self._opened.enter_context(open_packets(self._file, LONGEST_S))
        source, timing = video.source, video.timing
        known = len(timing.ticks) == timing.shown
        # Frames of a rate that varies, whose times are not all known, count as equally long.
        if timing.varying and known:
            self._indices, self._fps = kept_by_time(timing.ticks, timing.tick_s, timing.rate, settings.fps)
        else:
            self._indices, self._fps = kept_frames(timing.shown, timing.rate, settings.fps)
        ticks = timing.ticks if known else np.full(timing.shown, np.nan)
        shown = np.arange(timing.shown)
        self._times_s = since_first(seconds(ticks, timing.tick_s), shown, timing.rate)[self._indices]
        self._source = replace(source, source_frames=timing.shown)
        self._chosen_by = "time" if timing.varying else ""
        self._pictures: Iterator[av.VideoFrame] = every_picture(video)
        resizer = PlaneResizer if settings.decoder == "pyav" else FrameResizer
        self._resize = resizer(source.source_height, source.source_width, settings.interpolation)
        self._picture: av.VideoFrame | None = None
        self._seen = self._stored = 0

    def read(self, out: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Decode the next frames; returns their times in seconds since the first, fewer than `out` has at the end.

        Args:
            out: (n, height, width, 3) uint8, where RGB frames go.

        Raises:
            DecodeError: the file cannot be decoded.
            ReadError: the machine failed.
        """
        first = self._stored
        with ffmpeg_errors(self._file):
            try:
                while self._stored < min(first + len(out), len(self._indices)) and self._go_to_next():
                    assert self._picture is not None
                    self._resize(self._picture, out[self._stored - first])
                    self._stored += 1
            except av.error.MemoryError:
                raise
            except av.FFmpegError as error:
                status = "truncated" if self._seen else "unreadable"
                raise DecodeError(status, f"after {self._seen} frames: {ffmpeg_message(error)}") from None
        if not self._stored:
            raise DecodeError("unreadable", "no frame can be decoded")
        return self._times_s[first : self._stored]

    def _go_to_next(self) -> bool:
        """Decode until the picture of the next stored frame; False at the end: some packets had no picture."""
        while self._seen <= self._indices[self._stored]:
            picture = next(self._pictures, None)
            if picture is None:
                self._indices = self._indices[: self._stored]
                return False
            self._picture = picture
            self._seen += 1
        return True

    def facts(self) -> dict[str, Any]:
        """The ledger's columns about the source, `fps` of stored frames, how many there are, and whether all are read.

        The number of frames is that of packets until the end, where it is exact.
        """
        return {
            "fps": self._fps,
            "decoder": "pyav",
            "chosen_by": self._chosen_by,
            **self._source.facts(),
            "duration_s": float(self._times_s[len(self._indices) - 1]) + 1 / self._fps,
            "is_last": self._stored == len(self._indices),
        }

    def close(self) -> None:
        """Close the file."""
        self._opened.close()
