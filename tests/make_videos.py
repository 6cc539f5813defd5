"""Small videos whose frame number can be read back from the pixels, for tests of everything that decodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BITS = 12
_ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
_QUIET = {"libx265": {"x265-params": "log-level=none"}, "libx264": {"preset": "veryfast"}}


def numbered_frame(number: int, size: tuple[int, int], rotate: int = 0) -> np.ndarray:
    """A frame (H, W, 3) uint8 RGB that says its number in twelve black or white blocks, 2 rows of 6, over its
    upper half; a coloured gradient that drifts with the number fills the lower half.

    Args:
        number: 0..4095.
        size: (H, W).
        rotate: quarter turns counter-clockwise of the drawn picture.
    """
    height, width = size if rotate % 2 == 0 else size[::-1]
    frame = np.empty((height, width, 3), np.uint8)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    frame[..., 0] = 40 + 170 * columns / width
    frame[..., 1] = 40 + 170 * rows / height
    frame[..., 2] = 40 + 5 * (number % 32)
    half = height // 2
    bit = np.minimum(rows[:half] * 2 // half, 1) * 6 + columns * 6 // width
    frame[:half] = np.where((number >> bit) & 1, 235, 20)[..., None]
    return np.rot90(frame, rotate)


def read_number(frame: np.ndarray) -> int:
    """The number drawn by `numbered_frame`, from a frame of any size (H, W, 3) uint8."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(_BITS):
        y = int((bit // 6 + 0.5) * (height // 2) / 2)
        x = int((bit % 6 + 0.5) * width / 6)
        number |= int(frame[y, x].mean() > 128) << bit
    return number


def write_mp4(
    path: Path | str,
    num_frames: int = 30,
    fps: float | Fraction = 30,
    size: tuple[int, int] = (96, 128),
    codec: str = "h264",
    *,
    pix_fmt: str = "yuv420p",
    frames: Iterable[np.ndarray] | None = None,
    pts: Sequence[int] | None = None,
    audio_only: bool = False,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    first: int = 0,
) -> Path:
    """Write a video; by default frame k is `numbered_frame(first + k)`.

    Args:
        path: file to write; its suffix names the container (mp4, mkv, webm, avi, mov, ts) unless `container` does.
        num_frames: frames in it.
        fps: frames per second.
        size: (H, W) in pixels.
        codec: h264, hevc, vp8, vp9, av1, mpeg4 or the name of an FFmpeg encoder.
        pix_fmt: pixel format of the stream.
        frames: pictures (H, W, 3) uint8 RGB to write instead.
        pts: presentation time of each frame in units of 1/fps; a variable rate, if they are not 0, 1, 2, ...
        audio_only: write a tone and no video stream.
        container: FFmpeg's name of the container.
        container_options: options of the muxer, such as {"movflags": "faststart"}.
        options: options of the encoder, such as {"g": "12", "bf": "3"}.
        first: number drawn on the first frame.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        if audio_only:
            _tone(output)
            return path
        encoder = _ENCODERS.get(codec, codec)
        rate = Fraction(fps).limit_denominator(100_000)
        stream = output.add_stream(encoder, rate=rate)
        stream.height, stream.width, stream.pix_fmt = size[0], size[1], pix_fmt
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.thread_count = 1  # the same bytes each time
        stream.options = {**_QUIET.get(encoder, {}), **(options or {})}
        pictures = frames if frames is not None else (numbered_frame(first + k, size) for k in range(num_frames))
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = (pts[k] if pts is not None else k), 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def _tone(output: av.container.OutputContainer, seconds: float = 1.0, rate: int = 16_000) -> None:
    stream = output.add_stream("aac", rate=rate, layout="mono")
    samples = (8000 * np.sin(np.arange(int(seconds * rate)) * 0.1)).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def truncate(path: Path, fraction: float = 0.5) -> Path:
    """Cut the end of a file off, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path
