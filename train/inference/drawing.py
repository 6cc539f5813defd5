"""Draws the pictures of a prediction into the folder of infer, each video under a name of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import MachineError, UserError
from pipeline.common.files import make_folder
from train.inference.inputs import PICTURES
from train.inference.output import Segment
from train.pictures.prediction import Prediction, write_pictures, write_timeline

log = logging.getLogger(__name__)

WHAT_NEXT = "Give another folder with --infer.output_dir (make: OUT=DIR), or --no-pictures."


@dataclass(frozen=True)
class Drawing:
    """Where pictures go, and how much of a long video they show.

    Attributes:
        folder: of all pictures.
        max_seconds: seconds of a video that are shown at most.
    """

    folder: Path
    max_seconds: float

    def draw(
        self,
        name: str,
        source: Path | None,
        frames: NDArray[np.uint8] | None,
        fps: float,
        prediction: Prediction,
        *,
        duration_s: float,
        moment_s: float,
    ) -> list[Path]:
        """Draw one video, of a long one the part around `moment_s`; returns the paths.

        A video that cannot be drawn has a warning and no picture.

        Args:
            name: of the pictures, a relative path without ending.
            source: the file; None: only its stored frames are there.
            frames: the stored frames (T, H, W, 3) uint8 RGB, if they are all in memory.
            fps: of the stored frames.
            prediction: what is written on it.
            duration_s: length of the video.
            moment_s: the time to show.

        Raises:
            MachineError: the video could not be read.
            OSError: a picture cannot be written.
        """
        span = None
        if duration_s > self.max_seconds:
            start = min(max(moment_s - self.max_seconds / 2, 0.0), duration_s - self.max_seconds)
            span = (start, start + self.max_seconds)
        stem = self._stem(name)
        try:
            return write_pictures(stem, source, frames, fps, prediction, span=span, max_seconds=self.max_seconds)
        except MachineError:
            raise
        except UserError as error:
            log.warning("warning: %s: has no picture: %s", source or name, error)
            return []

    def draw_timeline(
        self,
        name: str,
        times_s: NDArray[np.float64],
        scores: NDArray[np.float32],
        names: list[str],
        segments: Sequence[Segment],
    ) -> Path:
        """Draw the scores of a long video over time; returns the path."""
        stem = self._stem(name)
        path = stem.with_name(f"{stem.name}-timeline.png")
        write_timeline(path, times_s, scores, names, list(segments))
        return path

    def _stem(self, name: str) -> Path:
        stem = self.folder / f"{name}{PICTURES}"
        make_folder(stem.parent, WHAT_NEXT)
        return stem
