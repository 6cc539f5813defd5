"""Resizes the planes of a decoded picture before it converts colours, which takes two thirds of the time of resize.py.

Colour conversion is an affine map of (Y, U, V) and resizing is a weighted mean, so their order can be exchanged.  The
results differ by rounding, and by how chroma is interpolated: by half a grey level on average in footage of cameras.
In computer graphics it can be more, so every 32nd frame is made in both orders, and where they differ by a level
colours are converted first until the next comparison.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.resize import INTERPOLATIONS, FrameResizer

MAX_DIFFERENCE = 0.95
"""Grey levels, mean over a compared frame, from which colours are converted first."""

_COMPARE_EVERY = 32  # frames
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
# (Kr, Kb) by FFmpeg's AVColorSpace number; all others, such as "unspecified", are BT.601 as in libswscale.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_TRUNCATION = (0.95, 1.5, 0.9)  # libswscale drops what is behind the point of each term, and green has one more


class PlaneResizer:
    """Makes the decoded pictures of one video upright, RGB and of the stored size.

    Pictures that are turned, or are not 8-bit YUV with halved chroma, are converted as FrameResizer does.

    Args:
        height: of the video by its container, in pixels.
        width: likewise.
        interpolation: bilinear (no antialias), area or bicubic.
    """

    def __init__(self, height: int, width: int, interpolation: str) -> None:
        self._exact, self._size = FrameResizer(height, width, interpolation), (height, width)
        # Chroma has about as many pixels as a stored frame already, and libswscale does not interpolate it either.
        chroma = cv2.INTER_NEAREST_EXACT if interpolation == "bilinear" else INTERPOLATIONS[interpolation]
        self._methods = (INTERPOLATIONS[interpolation], chroma, chroma)
        self._planes: list[NDArray[np.uint8]] = []
        self._yuv = np.empty(0, np.uint8)
        self._matrices: dict[tuple[int, bool], NDArray[np.float32]] = {}
        self._number = 0
        self._planes_first = True

    def __call__(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> tuple[int, int]:
        """Write `picture` into `out`, (height, width, 3) uint8 RGB, C-contiguous; returns its upright size, (H, W)."""
        compares = self._number % _COMPARE_EVERY == 0
        self._number += 1
        if not self._exact.is_plain(picture) or not (self._planes_first or compares):
            return self._exact(picture, out)
        self._resize(picture, out)
        if compares:
            planes_first = out.copy()
            self._exact(picture, out)
            self._planes_first = cv2.norm(out, planes_first, cv2.NORM_L1) < MAX_DIFFERENCE * out.size
        return self._size

    def _resize(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> None:
        if self._yuv.shape != out.shape:
            self._yuv, self._planes = np.empty_like(out), [np.empty(out.shape[:2], np.uint8) for _ in range(3)]
        for plane, resized, method in zip(picture.planes, self._planes, self._methods, strict=True):
            cv2.resize(_view(plane), out.shape[1::-1], dst=resized, interpolation=method)
        cv2.merge(self._planes, self._yuv)
        cv2.transform(self._yuv, self._matrix(picture), out)

    def _matrix(self, picture: av.VideoFrame) -> NDArray[np.float32]:
        full_range = int(picture.color_range) == _FULL_RANGE or picture.format.name.startswith("yuvj")
        key = (int(picture.colorspace), full_range)
        if key not in self._matrices:
            self._matrices[key] = yuv_to_rgb(*key)
        return self._matrices[key]


def yuv_to_rgb(colorspace: int, full_range: bool) -> NDArray[np.float32]:
    """The 3 x 4 float32 matrix from (Y, U, V, 1), each 0..255, to (R, G, B) as libswscale computes them on average."""
    red, blue = _LUMA_WEIGHTS.get(colorspace, _BT601)
    green = 1 - red - blue
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    matrix = np.array(
        [
            [luma, 0, 2 * (1 - red) * chroma],
            [luma, -2 * (1 - blue) * blue / green * chroma, -2 * (1 - red) * red / green * chroma],
            [luma, 2 * (1 - blue) * chroma, 0],
        ]
    )
    black = np.array([0 if full_range else 16, 128, 128])
    return np.column_stack([matrix, -matrix @ black - _TRUNCATION]).astype(np.float32)


def _view(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    """The pixels of a plane without a copy: (height, width) uint8."""
    return np.ndarray((plane.height, plane.width), np.uint8, plane, strides=(plane.line_size, 1))  # type: ignore[arg-type]
