"""Makes a stored frame from a decoded picture: resizes first and converts colours second, without a full-size RGB copy.

Colour conversion is an affine map of (Y, U, V) and resizing is a weighted mean, so their order can be exchanged.
Resizing the three planes and then converting 171 x 128 pixels takes a third of the time of converting 340 x 256 pixels
first.  The results differ only in rounding and in how chroma is interpolated; tests/pipeline/decoding/test_decode.py
keeps the mean difference under one grey level.  This is true of camera footage but not of every picture, so
FrameResizer compares both.  Pictures that are not planar 8-bit YUV are converted first, by libswscale.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(1)  # frames are too small for threads, and every core has a decoder

INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}

_PLANAR = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv440p", "yuv411p"}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG

# (Kr, Kb) by FFmpeg's AVColorSpace number; all others, such as "unspecified", are BT.601 as in libswscale.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)

_COMPARE_EVERY = 32  # frames
_MAX_DIFFERENCE = 0.95  # grey levels, mean over a frame


def yuv_to_rgb(colorspace: int, full_range: bool) -> NDArray[np.float32]:
    """The 3 x 4 float32 matrix from (Y, U, V, 1), each 0..255, to (R, G, B)."""
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
    # Half a level lower, so that rounding truncates.  libswscale's RGB, which PyAV, decord and torchvision use, is one
    # level below the exact value on average; this is within one level of both.
    return np.hstack([matrix, -matrix @ black[:, None] - 0.5]).astype(np.float32)


class FrameResizer:
    """Makes the decoded pictures of one video upright, RGB and of the stored size.

    Every 32nd frame is made in both orders.  If they differ by a grey level (computer graphics: colours outside RGB's
    range, chroma that changes from pixel to pixel), colours are converted first until the next comparison.

    Args:
        height: height of a stored frame in pixels.
        width: width of a stored frame in pixels.
        interpolation: bilinear (no antialias), area or bicubic.
    """

    def __init__(self, height: int, width: int, interpolation: str) -> None:
        self._size = (height, width)
        self._interpolation = interpolation
        self._method = INTERPOLATIONS[interpolation]
        self._matrices: dict[tuple[int, bool], NDArray[np.float32]] = {}
        self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        self._yuv = np.empty((height, width, 3), np.uint8)
        self._number = 0
        self._resize_first = True

    def __call__(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write `picture` into `out`: (height, width, 3) uint8 RGB, C-contiguous."""
        quarters = quarter_turns(picture)
        compares = self._number % _COMPARE_EVERY == 0
        self._number += 1
        if quarters or picture.format.name not in _PLANAR:
            self._convert_then_resize(picture, quarters, out)
        elif compares:
            self._resize_then_convert(picture, out)
            resized_first = out.astype(np.int16)
            self._convert_then_resize(picture, quarters, out)
            self._resize_first = bool(np.abs(out - resized_first).mean() < _MAX_DIFFERENCE)
        elif self._resize_first:
            self._resize_then_convert(picture, out)
        else:
            self._convert_then_resize(picture, quarters, out)

    def _resize_then_convert(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> None:
        for plane, resized in zip(picture.planes, self._planes, strict=True):
            cv2.resize(_view(plane), self._size[::-1], dst=resized, interpolation=self._method)
        cv2.merge(self._planes, self._yuv)
        cv2.transform(self._yuv, self._matrix(picture), out)

    def _convert_then_resize(self, picture: av.VideoFrame, quarters: int, out: NDArray[np.uint8]) -> None:
        upright = np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), quarters), np.uint8)
        resize_rgb(upright, out, self._interpolation)

    def _matrix(self, picture: av.VideoFrame) -> NDArray[np.float32]:
        full_range = int(picture.color_range) == _FULL_RANGE or picture.format.name.startswith("yuvj")
        key = (int(picture.colorspace), full_range)
        if key not in self._matrices:
            self._matrices[key] = yuv_to_rgb(*key)
        return self._matrices[key]


def quarter_turns(picture: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise, 0..3, that make a picture upright."""
    return round(picture.rotation / 90) % 4


def resize_rgb(picture: NDArray[np.uint8], out: NDArray[np.uint8], interpolation: str) -> None:
    """Resize a picture (H, W, 3) uint8 into `out`."""
    assert picture.shape[2] == 3, "OpenCV would not write to `out`"
    cv2.resize(picture, out.shape[1::-1], dst=out, interpolation=INTERPOLATIONS[interpolation])


def _view(plane: av.video.plane.VideoPlane) -> NDArray[np.float32]:
    """The pixels of a plane without a copy: (height, width) uint8."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
    return rows[:, : plane.width]
