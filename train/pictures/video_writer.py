"""Writes frames as MP4, which every browser plays, and as GIF; both at their true speed."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LEAST_DELAY = 2  # browsers show a frame that is shorter for 100 ms
_PANEL_COLOURS = 24
_TICK_S = Fraction(1, 90_000)  # times of a source are kept to 11 microseconds
_BITS_PER_S = 900_000  # at most, on average over two seconds
# Without B-frames, because with them the muxer takes the length of a video from the order of decoding, and players end
# before a last frame that comes late.
_QUALITY = {
    "crf": "22", "preset": "veryfast", "bf": "0", "maxrate": str(_BITS_PER_S), "bufsize": str(2 * _BITS_PER_S),
}  # fmt: skip


@contextlib.contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Raise the system's errors while PyAV writes a file as OSError."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
        raise


class Mp4Writer:
    """Writes an MP4: H.264 in yuv420p, with its index before the pictures, so that a browser plays it while it loads.

    A context manager.

    Args:
        path: the file.
        width: of the frames, in pixels; even.
        height: likewise.
        fps: about how many frames come in a second; each frame has its own time.

    Raises:
        OSError: the file cannot be written; every method raises it.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        self._path, self._fps = path, fps
        with _as_os_error(path):
            self._output = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        stream = self._output.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", dict(_QUALITY)
        stream.codec_context.time_base = stream.time_base = _TICK_S
        self._stream = stream

    def add(self, frame: NDArray[np.uint8], time_s: float) -> None:
        """Add a frame (height, width, 3) uint8 RGB that is shown from a time on, in seconds since the first."""
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = round(time_s / _TICK_S), _TICK_S
        picture.duration = round(1 / self._fps / _TICK_S)
        with _as_os_error(self._path):
            self._output.mux(self._stream.encode(picture))

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(av.FFmpegError):  # the error that ended the writing is the one to report
                self._output.close()
            return
        with _as_os_error(self._path):
            try:
                self._output.mux(self._stream.encode(None))
            finally:
                self._output.close()


def gif_delays(num_frames: int, fps: Fraction | float, seconds: float) -> list[int]:
    """How long each frame of a GIF is shown, in its unit of 10 ms: delays alternate, so that their mean is right.

    Args:
        num_frames: at least one.
        fps: frames per second.
        seconds: when the last frame ends.
    """
    starts = [round(100 * number / fps) for number in range(num_frames)]
    ends = [*starts[1:], max(round(100 * seconds), starts[-1] + _LEAST_DELAY)]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def encode_gif(
    frames: list[NDArray[np.uint8]], fps: Fraction | float, seconds: float, colours: int, panel: int
) -> bytes:
    """Frames (H, W, 3) uint8 RGB as a GIF that repeats.

    Args:
        frames: at least one.
        fps: frames per second.
        seconds: when the last frame ends.
        colours: of the palette that all frames share, so that what does not move takes no bytes.
        panel: the row from which on all frames are equal; it has colours of its own, which a video would crowd out.
    """
    moving = Image.fromarray(np.concatenate([frame[:panel:2, ::2] for frame in frames[:: -(-len(frames) // 8)]]))
    shares = ((moving, colours - _PANEL_COLOURS), (Image.fromarray(frames[0][panel:]), _PANEL_COLOURS))
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        b"".join(bytes(part.quantize(count, Image.Quantize.MEDIANCUT).getpalette() or ()) for part, count in shares)
    )
    pages = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [10 * delay for delay in gif_delays(len(frames), fps, seconds)]
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()
