"""Makes a stored frame from a decoded picture of PyAV: RGB, with decord's own conversion, upright and resized.

Which decoder gave a frame must not matter.  decord converts with a filter graph of libavfilter, and so does this: every
value is the same (tests/pipeline/decoding/test_same_pixels.py).  Of most pictures libswscale alone makes the same
values in half the time.  Elsewhere it places chroma where the picture says, which the graph of decord does not.
"""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

cv2.setNumThreads(1)  # frames are too small for threads, and every core has a decoder

_LEVEL = np.eye(2, dtype=np.int32)
_HALVED_CHROMA = ("yuv420p", "yuvj420p")  # of these, if they are not resized, libswscale interpolates no chroma
INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}


class FrameResizer:
    """Makes the decoded pictures of one video upright, RGB and of the stored size.

    Args:
        height: of the video by its container, in pixels; pictures of other sizes are brought to it, as decord does.
        width: likewise.
        interpolation: bilinear (no antialias), area or bicubic.
    """

    def __init__(self, height: int, width: int, interpolation: str) -> None:
        self._size, self._interpolation = (height, width), interpolation
        self._reformatter = VideoReformatter()
        self._graph: av.filter.Graph | None = None
        self._angle: int | None = None
        self._matrix = _LEVEL

    def __call__(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> tuple[int, int]:
        """Write `picture` into `out`, (height, width, 3) uint8 RGB, C-contiguous; returns its upright size, (H, W)."""
        upright = _upright(_pixels(self._to_rgb(picture)), self._display_matrix(picture))
        resize_rgb(upright, out, self._interpolation)
        return upright.shape[0], upright.shape[1]

    def is_plain(self, picture: av.VideoFrame) -> bool:
        """Whether a picture is upright, of the container's size and 8-bit YUV with halved chroma."""
        return self._is_simple(picture) and self._display_matrix(picture) is _LEVEL

    def _is_simple(self, picture: av.VideoFrame) -> bool:
        return (picture.height, picture.width) == self._size and picture.format.name in _HALVED_CHROMA

    def _display_matrix(self, picture: av.VideoFrame) -> NDArray[np.int32]:
        """The matrix of the pictures; looking for that of every picture takes a tenth of the time of decoding it."""
        if picture.rotation != self._angle:
            self._angle, self._matrix = picture.rotation, display_matrix(picture)
        return self._matrix

    def _to_rgb(self, picture: av.VideoFrame) -> av.VideoFrame:
        """A picture of the container's size in RGB."""
        if self._graph is None and picture.height % 2 == 0 and self._is_simple(picture):
            return self._reformatter.reformat(picture, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        if self._graph is None:
            self._graph = _graph_to_rgb(picture, self._size)
        self._graph.push(picture)
        return self._graph.vpull()


def _pixels(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """The pixels of an RGB picture without a copy: (H, W, 3) uint8."""
    plane = picture.planes[0]
    shape, strides = (picture.height, picture.width, 3), (plane.line_size, 3, 1)
    return np.ndarray(shape, np.uint8, plane, strides=strides)  # type: ignore[arg-type]  # it is a buffer


def display_matrix(picture: av.VideoFrame) -> NDArray[np.int32]:
    """How a decoded picture is shown: (2, 2) ((a, b), (c, d)), where pixel (x, y) goes to (ax + cy, bx + dy)."""
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _LEVEL
    return np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2]  # type: ignore[call-overload]  # it is a buffer


def _upright(picture: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) as it is shown: one of eight orientations, the nearest for other angles."""
    (a, b), (c, d) = matrix.tolist()
    upright: cv2.typing.MatLike = picture
    if abs(b) > abs(a):
        upright, a, d = cv2.transpose(picture), c, b  # ten times as fast as numpy's
    flip = {(False, True): 0, (True, False): 1, (True, True): -1}.get((a < 0, d < 0))
    return np.asarray(upright if flip is None else cv2.flip(upright, flip), np.uint8)


def _graph_to_rgb(first: av.VideoFrame, size: tuple[int, int]) -> av.filter.Graph:
    """The graph that decord makes for a video that begins with this picture."""
    graph = av.filter.Graph()
    # No time of a frame is read behind the graph, so the unit of time does not matter.
    filters = [
        graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1, 1000)),
        graph.add("scale", f"{size[1]}:{size[0]}"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for one, following in zip(filters[:-1], filters[1:], strict=True):
        one.link_to(following)
    graph.configure()
    return graph


def resize_rgb(picture: NDArray[np.uint8], out: NDArray[np.uint8], interpolation: str) -> None:
    """Resize a picture (H, W, 3) uint8 into `out`."""
    assert picture.shape[2] == 3, "OpenCV would not write to `out`"
    cv2.resize(picture, out.shape[1::-1], dst=out, interpolation=INTERPOLATIONS[interpolation])
