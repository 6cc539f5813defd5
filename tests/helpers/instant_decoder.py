"""Replaces the decoder process in tests of runs that are stopped hundreds of times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from make_store import frames_of

from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import DecodeResult
from pipeline.decoding.resample import steady_times
from pipeline.shards.encoding import encode

BAD = 3  # the number of the video that is unreadable


class InstantDecoder:
    """Replaces the decoder process: returns known frames at once, so that every point can be tested."""

    def __init__(self, settings: Preprocess, _core: int | None = None) -> None:
        self.settings = settings

    def decode(self, paths: Iterable[Path]) -> Iterator[DecodeResult]:
        for path in paths:
            number = int(path.stem.split("_")[-2])
            if number == BAD:
                yield DecodeResult("unreadable", "of no use", {"source_bytes": 0})
                continue
            facts = {"codec": "h264", "source_width": 20, "source_height": 16, "source_fps": 30.0,
                     "source_frames": 10, "source_bytes": 1, "fps": 15.0}  # fmt: skip
            frames = frames_of(number, 5 + number, self.settings)
            times_s = steady_times(np.arange(len(frames)), 15.0)
            if number % 2:  # a rate that varies
                times_s = times_s**1.5
            yield DecodeResult("ok", "", facts, encode(frames, times_s, self.settings))

    def stop(self) -> None: ...

    def close(self) -> None: ...
