"""Makes a stored frame from a decoded picture of PyAV: RGB, with decord's own conversion, upright and resized.

Which decoder gave a frame must not matter.  decord converts with a filter graph of libavfilter, and so does this: of
8-bit pictures every value is the same (tests/pipeline/decoding/test_same_pixels.py).
"""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(1)  # frames are too small for threads, and every core has a decoder

INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}


class FrameResizer:
    """Makes the decoded pictures of one video upright, RGB and of the stored size.

    Args:
        interpolation: bilinear (no antialias), area or bicubic.
    """

    def __init__(self, interpolation: str) -> None:
        self._interpolation = interpolation
        self._graph = av.filter.Graph()
        self._kind: tuple[str, int, int] | None = None  # of the pictures that the graph converts

    def __call__(self, picture: av.VideoFrame, out: NDArray[np.uint8]) -> None:
        """Write `picture` into `out`: (height, width, 3) uint8 RGB, C-contiguous."""
        kind = (picture.format.name, picture.width, picture.height)
        if kind != self._kind:
            self._graph, self._kind = _to_rgb(*kind), kind
        quarters = quarter_turns(picture)
        self._graph.push(picture)
        converted = self._graph.vpull().to_ndarray()
        resize_rgb(np.ascontiguousarray(np.rot90(converted, quarters), np.uint8), out, self._interpolation)


def _to_rgb(pixel_format: str, width: int, height: int) -> av.filter.Graph:
    """The graph that decord uses, whose conversion has swscale's bicubic chroma where it interpolates."""
    graph, kind = av.filter.Graph(), av.VideoFormat(pixel_format, width, height)
    # No time of a frame is read behind the graph, so the unit of time does not matter.
    source = graph.add_buffer(width=width, height=height, format=kind, time_base=Fraction(1, 1000))
    convert, sink = graph.add("format", "rgb24"), graph.add("buffersink")
    source.link_to(convert)
    convert.link_to(sink)
    graph.configure()
    return graph


def quarter_turns(picture: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise, 0..3, that make a picture upright."""
    return round(picture.rotation / 90) % 4


def resize_rgb(picture: NDArray[np.uint8], out: NDArray[np.uint8], interpolation: str) -> None:
    """Resize a picture (H, W, 3) uint8 into `out`."""
    assert picture.shape[2] == 3, "OpenCV would not write to `out`"
    cv2.resize(picture, out.shape[1::-1], dst=out, interpolation=INTERPOLATIONS[interpolation])
