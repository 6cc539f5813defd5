"""Small videos whose frame numbers can be read from the pixels, for tests of everything that decodes."""

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
    """A frame (H, W, 3) uint8 RGB that shows its number in twelve black or white blocks, 2 rows of 6, over its
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
    pixel_aspect: Fraction | None = None,
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
        pixel_aspect: width over height of a pixel; None: not in the file.
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
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
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


def turn(path: Path, quarters: int) -> Path:
    """Set the rotation in an mp4's track header: players turn it clockwise by 1, 2 or 3 quarters."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    one, minus = (1 << 16).to_bytes(4, "big"), (-1 << 16).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    assert content[matrix : matrix + 4] == one, "not turned yet"
    a, b, c, d = {1: (zero, one, minus, zero), 2: (minus, zero, zero, minus), 3: (zero, minus, one, zero)}[quarters]
    content[matrix : matrix + 20] = a + b + zero + c + d
    path.write_bytes(content)
    return path


def write_two_streams(path: Path, first: str) -> Path:
    """Six numbered frames of 96 x 128 as the second of two video streams; the first is a `cover` or a `small` one."""
    with av.open(str(path), "w") as output:
        other = output.add_stream("mjpeg" if first == "cover" else "libx264", rate=1)
        other.height, other.width, other.pix_fmt = (240, 320, "yuvj420p") if first == "cover" else (48, 64, "yuv420p")
        if first == "cover":
            other.disposition = av.stream.Disposition.attached_pic
        stream = output.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for target, count in ((other, 1), (stream, 6)):
            for k in range(count):
                picture = numbered_frame(k, (target.height, target.width))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 30)
                output.mux(target.encode(frame))
            output.mux(target.encode(None))
    return path


def write_changing_size(path: Path, codec: str) -> Path:
    """Five numbered frames of 96 x 128, then five of 192 x 256, in one stream."""
    encoder, options = _ENCODERS[codec], {"x264-params": "repeat-headers=1", "bf": "0"} if codec == "h264" else {}
    with av.open(str(path), "w") as output:
        stream = output.add_stream(encoder, rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.options = 96, 128, "yuv420p", options
        larger = av.CodecContext.create(encoder, "w")
        larger.height, larger.width, larger.pix_fmt, larger.options = 192, 256, "yuv420p", options
        larger.time_base, larger.framerate = Fraction(1, 30), Fraction(30)
        for start, context in ((0, stream.codec_context), (5, larger)):
            pictures = (numbered_frame(start + k, (context.height, context.width)) for k in range(5))
            frames: list[av.VideoFrame | None] = [av.VideoFrame.from_ndarray(one, format="rgb24") for one in pictures]
            for k, frame in enumerate([*frames, None]):
                if frame is not None:
                    frame.pts, frame.time_base = k, Fraction(1, 30)
                for packet in context.encode(frame):
                    packet.pts, packet.dts = packet.pts + start, packet.dts + start
                    packet.stream, packet.time_base = stream, Fraction(1, 30)
                    output.mux(packet)
    return path


def truncate(path: Path, fraction: float = 0.5) -> Path:
    """Cut off the end of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path
