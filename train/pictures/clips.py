"""Draws a predicted video as a GIF with its label, for train.infer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.common.files import replacing

_GIF_SCALE = 2  # stored frames of 128 x 171 pixels are small on a screen


def write_gif(path: Path, frames: NDArray[np.uint8], caption: str, fps: float) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as a GIF that repeats, with `caption` on a dark strip above them."""
    pages = []
    for frame in frames:
        picture = Image.fromarray(frame).resize((frame.shape[1] * _GIF_SCALE, frame.shape[0] * _GIF_SCALE))
        page = Image.new("RGB", (picture.width, picture.height + 24), (24, 24, 24))
        page.paste(picture, (0, 24))
        ImageDraw.Draw(page).text((6, 5), caption, fill=(255, 255, 255), font_size=14)
        pages.append(page.quantize(128))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pages[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pages[1:],
            duration=max(round(1000 / fps), 20),
            loop=0,
        )
