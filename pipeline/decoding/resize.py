"""One decoded picture -> one stored frame: resize, then colour, so that no full-size RGB copy is ever made.

Colour conversion is an affine map of (Y, U, V) and resizing a weighted mean, so they may change places: resizing
the three planes and converting 171 x 128 pixels differs from converting 340 x 256 and resizing only in rounding
and in how chroma is interpolated (tests/test_decode.py holds the mean difference under one grey level), and costs
a third.  That holds for camera footage and not for every picture, so it is looked at (FrameResizer).  Pictures that
are not planar 8-bit YUV take the long way through libswscale.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(1)  # a frame is too small to share, and every core has a decoder of its own

INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}

_PLANAR = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv440p", "yuv411p"}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG

# (Kr, Kb) of FFmpeg's AVColorSpace numbers; anything else, "unspecified" above all, is BT.601 as in libswscale.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)

_LOOK_EVERY = 32  # frames
_MAX_DIFFERENCE = 0.95  # grey levels, mean over a frame


def yuv_to_rgb(colorspace: int, full_range: bool) -> NDArray[np.float32]:
    """The 3 x 4 float32 matrix that takes (Y, U, V, 1), each 0..255, to (R, G, B)."""
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
    # Half a level down, so that rounding truncates: libswscale's RGB, which PyAV, decord and torchvision read, is
    # one level below the exact value on average, and this stays within a level of both.
    return np.hstack([matrix, -matrix @ black[:, None] - 0.5]).astype(np.float32)


class FrameResizer:
    """Turns the decoded pictures of one video upright, RGB and of the stored size.

    Every so often both ways are taken and compared; pictures on which they differ by a grey level (computer graphics:
    colours beyond RGB's range, chroma that changes from pixel to pixel) go the long way until the next look.

    Args:
        height: of a stored frame, in pixels.
        width: of a stored frame, in pixels.
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
        self._short_way = True

    def __call__(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write `picture` into `out`: (height, width, 3) uint8 RGB, C-contiguous."""
        quarters = quarter_turns(picture)
        looks = self._number % _LOOK_EVERY == 0
        self._number += 1
        if quarters or picture.format.name not in _PLANAR:
            self._convert_then_resize(picture, quarters, out)
        elif looks:
            self._resize_then_convert(picture, out)
            short = out.astype(np.int16)
            self._convert_then_resize(picture, quarters, out)
            self._short_way = bool(np.abs(out - short).mean() < _MAX_DIFFERENCE)
        elif self._short_way:
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
    """Quarter turns counter-clockwise, 0..3, that bring a picture upright."""
    return round(picture.rotation / 90) % 4


def resize_rgb(picture: NDArray[np.uint8], out: NDArray[np.uint8], interpolation: str) -> None:
    """Resize a picture (H, W, 3) uint8 into `out`."""
    assert picture.shape[2] == 3, "OpenCV would leave `out` as it is"
    cv2.resize(picture, out.shape[1::-1], dst=out, interpolation=INTERPOLATIONS[interpolation])


def _view(plane: av.video.plane.VideoPlane) -> NDArray[np.float32]:
    """The pixels of a plane, not copied: (height, width) uint8."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
    return rows[:, : plane.width]
