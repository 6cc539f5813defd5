"""Draws the pictures of a prediction into the folder of infer, each video under a name of its own."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import MachineError, UserError
from pipeline.common.files import make_folder
from train.inference.inputs import PICTURES
from train.inference.output import Segment, best_classes
from train.pictures.prediction import GIF_SECONDS, Prediction, StoredVideo, write_pictures, write_timeline

log = logging.getLogger(__name__)

WHAT_NEXT = "Give another folder with --infer.output_dir (make: OUT=DIR), or --no-pictures."
_MOST_BYTES = 180  # of a name; file systems allow 255, and temporary names are longer


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
        source: Path | StoredVideo,
        prediction: Prediction,
        *,
        duration_s: float,
        moment_s: float,
        within_s: tuple[float, float] | None = None,
    ) -> list[Path]:
        """Draw one video, of a long one the part around `moment_s`, as does the GIF; returns the paths.

        A video that cannot be drawn has a warning and no picture.

        Args:
            name: of the pictures, a relative path without ending.
            source: the file, or its stored frames.
            prediction: what is written on it.
            duration_s: length of the video.
            moment_s: the time to show.
            within_s: the part (start, end) that the prediction is of; None: the whole video.

        Raises:
            MachineError: the video could not be read.
            OSError: a picture cannot be written.
        """
        from_s, until_s = within_s or (0.0, duration_s)
        start_s, shown_s = _around(moment_s - from_s, self.max_seconds, until_s - from_s)
        start_s += from_s
        span = (start_s, start_s + shown_s) if duration_s > shown_s else None
        gif_from_s, _ = _around(moment_s - start_s, GIF_SECONDS, shown_s)
        stem = self._stem(name)
        try:
            return write_pictures(
                stem, source, prediction, span=span, max_seconds=self.max_seconds, gif_from_s=gif_from_s
            )
        except MachineError:
            raise
        except UserError as error:
            log.warning("warning: %s: has no picture: %s", source if isinstance(source, Path) else name, error)
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
        path = self.folder / name
        stem = path.with_name(f"{_short(path.name)}{PICTURES}")
        make_folder(stem.parent, WHAT_NEXT)
        return stem


@dataclass(frozen=True)
class Presentation:
    """What is shown of each prediction.

    Attributes:
        names: of the classes, (K,).
        top_k: how many of them a row has.
        drawing: draws pictures; None: none.
    """

    names: list[str]
    top_k: int
    drawing: Drawing | None

    def best(self, probabilities: NDArray[np.floating]) -> list[tuple[str, float]]:
        """The names and probabilities of the best of K classes, best first."""
        return best_classes(probabilities, self.names, self.top_k)


def _short(name: str) -> str:
    """The name of a file; of one that is so long that no ending fits, its beginning and a part of its SHA-256."""
    content = os.fsencode(name)
    if len(content) <= _MOST_BYTES:
        return name
    return f"{content[:_MOST_BYTES].decode(errors='ignore')}-{hashlib.sha256(content).hexdigest()[:8]}"


def _around(middle_s: float, seconds: float, length_s: float) -> tuple[float, float]:
    """Start and length of up to so many seconds around a time, inside `length_s` seconds."""
    seconds = min(seconds, length_s)
    return min(max(middle_s - seconds / 2, 0.0), length_s - seconds), seconds
