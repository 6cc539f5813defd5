"""Draws a predicted video as MP4 and GIF: its frames, and under them the best classes, the true label, the moment."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.common.errors import UserError
from pipeline.common.files import make_folder, naming, replacing
from pipeline.decoding.moment import MomentReader
from train.pictures.panel import DARK, GREY, TRACK, WHITE, Moment, Prediction, draw_panel
from train.pictures.timeline import write_timeline
from train.pictures.video_writer import Mp4Writer, encode_gif

__all__ = ["Prediction", "StoredVideo", "write_pictures", "write_timeline"]

MP4_WIDTH, GIF_WIDTH = 480, 320
GIF_SECONDS, GIF_FPS = 5.0, 15.0
GIF_MOST_BYTES = 2_400_000
# Width, frames per second at most and colours of a GIF, best first: the first that is small enough is taken.
_GIF_LEVELS = ((GIF_WIDTH, GIF_FPS, 192), (GIF_WIDTH, 10.0, 96), (240, 8.0, 64), (160, 6.0, 48))
_ESTIMATE = 1.6  # frames that follow each other have more in common than the few that are tried
_STILL_S = 1.0  # a single frame is shown for so long
_SLACK_S = 0.5  # a video that is so much longer than what is shown is not "long"
_SAME_S = 0.002  # times that differ by less are equal: Matroska rounds them to 1 ms
_LAST_S = 0.02  # the least time for which a GIF's last frame is shown
_LARGEST_DENOMINATOR = 10_000  # of a rate: 30000/1001, or a picture an hour
_STRIP = 4  # pixels of the line that shows the moment

Timed = Iterator[tuple[float, NDArray[np.uint8]]]


@dataclass(frozen=True)
class StoredVideo:
    """The stored frames of a video whose file is gone.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, all of them.
        fps: of the frames.
        source_size: (height, width) of its source, whose shape the frames get again; 0 where unknown.
    """

    frames: NDArray[np.uint8]
    fps: float
    source_size: tuple[int, int] = (0, 0)


def write_pictures(
    stem: Path,
    source: Path | StoredVideo,
    prediction: Prediction,
    *,
    span: tuple[float, float] | None,
    max_seconds: float = 10.0,
    gif_from_s: float = 0.0,
) -> list[Path]:
    """Write `<stem>.mp4` and `<stem>.gif`; both or none of them.

    The MP4 is 480 pixels wide, and has the frames and the times of the source.  A portrait video is as high as the
    picture is wide, between dark edges.  The GIF is 320 pixels wide, or less where frames change so much that it would
    be large, and shows 5 s at true speed.

    Args:
        stem: path of the files without their suffix; folders above it are made.
        source: the video file, which is decoded in a process of its own; or the stored frames.
        prediction: what is written under the frames.  Characters that no font has are reported in a warning.
        span: the moment to show, (start, end) in seconds since the first frame; None: the video from its first frame.
        max_seconds: the longest moment; what comes after it is not shown.
        gif_from_s: where the GIF begins, in seconds since the begin of the moment.

    Returns:
        The files.

    Raises:
        UserError: there is no frame, the source cannot be decoded, or the folder cannot be made.
        MachineError: the source could not be read.
        OSError: a file cannot be written.
    """
    start_s, end_s = span or (0.0, math.inf)
    seconds = min(end_s - start_s, max_seconds)
    if not seconds > 0:
        raise UserError(f"{stem}: got a moment of {seconds:g} s, expected more than 0 s. Give a longer one.")
    with _opened(source, start_s, seconds, stem) as (rate, video_s, timed):
        return _write(stem, timed, _Sampler(rate, gif_from_s), prediction, start_s, seconds, video_s)


@contextlib.contextmanager
def _opened(
    source: Path | StoredVideo, start_s: float, seconds: float, stem: Path
) -> Iterator[tuple[float, float, Timed]]:
    """Frames per second, length of the whole video (0: unknown), and the frames of the moment with their times."""
    if isinstance(source, Path):
        with MomentReader(source, start_s, seconds, (MP4_WIDTH, MP4_WIDTH)) as reader:
            yield reader.shown.fps, reader.shown.video_s, iter(reader)
        return
    frames, fps = source.frames, source.fps
    if not len(frames):
        raise UserError(f"{stem}: got no frames, expected at least one. Give another video.")
    first = min(int(start_s * fps + 1e-6), len(frames) - 1)
    chosen = frames[first : first + max(math.ceil(seconds * fps - 1e-6), 1)]
    yield (
        fps,
        len(frames) / fps,
        ((number / fps, _fitted(frame, source.source_size)) for number, frame in enumerate(chosen)),
    )


def _fitted(frame: NDArray[np.uint8], source_size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame in the shape of its source, as large as the picture allows."""
    height, width = source_size if all(source_size) else frame.shape[:2]
    scale = MP4_WIDTH / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _write(
    stem: Path, timed: Timed, sampler: _Sampler, prediction: Prediction, start_s: float, seconds: float, video_s: float
) -> list[Path]:
    last_s = video_s or math.inf
    moment = None
    if start_s > 0 or video_s > seconds + _SLACK_S:
        moment = Moment(start_s, min(start_s + seconds, last_s), video_s)
    make_folder(stem.parent, "Give another folder.")
    mp4, gif = (stem.with_name(stem.name + suffix) for suffix in (".mp4", ".gif"))
    with replacing(mp4) as mp4_file, replacing(gif) as gif_file:
        with naming(mp4):
            _write_mp4(mp4_file, sampler.watch(timed), sampler.fps, prediction, moment)
        if moment is not None or sampler.seconds + _SLACK_S < sampler.end_s:
            begin_s = start_s + sampler.start_s
            moment = Moment(begin_s, min(begin_s + sampler.seconds, last_s), video_s)
        gif_file.write_bytes(_gif(sampler, prediction, moment))
    return [mp4, gif]


def _write_mp4(path: Path, timed: Timed, fps: float, prediction: Prediction, moment: Moment | None) -> None:
    """Write frames as they come."""
    time_s, page = next(timed)
    canvas = _Canvas(MP4_WIDTH, page, prediction, moment)
    height, width = canvas.draw(page, time_s).shape[:2]
    with Mp4Writer(path, width, height, fps) as writer:
        writer.add(canvas.draw(page, time_s), time_s)
        for time_s, frame in timed:
            writer.add(canvas.draw(frame, time_s), time_s)
        if time_s == 0.0 and fps * _STILL_S > 1:
            writer.add(canvas.draw(page, 0.0), _STILL_S - 1 / fps)


def _gif(sampler: _Sampler, prediction: Prediction, moment: Moment | None) -> bytes:
    """The best GIF that is not too large."""
    frames, rate = sampler.frames, sampler.rate
    for width, most_fps, colours in _GIF_LEVELS:
        step = _steps(float(rate), most_fps)
        canvas = _Canvas(width, frames[0], prediction, moment)
        pages = [canvas.draw(frame, float(number * step / rate)) for number, frame in enumerate(frames[::step])]
        # A few frames tell of most levels that they are too large, in a tenth of the time.
        tried = pages[:: max(len(pages) // 6, 1)]
        alone = len(encode_gif(tried, 1.0, 0.0, colours, canvas.panel)) * len(pages) / len(tried)
        if alone > _ESTIMATE * GIF_MOST_BYTES:
            continue
        content = encode_gif(pages, rate / step, sampler.seconds, colours, canvas.panel)
        if len(content) <= GIF_MOST_BYTES:
            return content
    return encode_gif(pages, rate / step, sampler.seconds, colours, canvas.panel)


class _Sampler:
    """Takes from frames with times those of a GIF: at equal distances, each the one that is shown then.

    Args:
        fps: of the frames.
        from_s: where the GIF begins, in seconds since the first frame.

    Attributes:
        fps: of the frames.
        rate: frames of the GIF in a second.  A whole number of frames is left out between them, so that motion is even.
        frames: of GIF_SECONDS, when all have come.
        start_s: the time of the first of them.
        seconds: how long they are shown.
        end_s: when the last frame of all ends.
    """

    def __init__(self, fps: float, from_s: float = 0.0) -> None:
        self.rate = Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR) / _steps(fps, GIF_FPS)
        self.fps, self.start_s = fps, from_s
        self.frames: list[NDArray[np.uint8]] = []
        self.seconds = self.end_s = 0.0

    def watch(self, timed: Timed) -> Timed:
        """The same frames; those of the GIF are kept."""
        last: NDArray[np.uint8] | None = None
        time_s, begun = 0.0, False
        for time_s, frame in timed:
            if not begun and time_s >= self.start_s - _SAME_S:
                self.start_s, begun = time_s, True
            if begun:
                self._keep(last, time_s - self.start_s - _SAME_S)
            yield time_s, frame
            last = frame
        if not begun:
            self.start_s = time_s
        self.end_s = time_s + 1 / self.fps
        self.seconds = min(self.end_s - self.start_s, GIF_SECONDS)
        self._keep(last, self.seconds - _LAST_S)

    def _keep(self, frame: NDArray[np.uint8] | None, until_s: float) -> None:
        most = math.ceil(GIF_SECONDS * self.rate)
        while frame is not None and len(self.frames) < most and len(self.frames) / self.rate < until_s:
            self.frames.append(frame)


def _steps(fps: float, most_fps: float) -> int:
    """From one frame that is taken to the next."""
    return max(math.ceil(fps / most_fps - 1e-3), 1)


class _Canvas:
    """Puts frames of one size over a panel, and between them a line on which the moment moves.

    Attributes:
        panel: the row where the panel begins.
    """

    def __init__(self, width: int, frame: NDArray[np.uint8], prediction: Prediction, moment: Moment | None) -> None:
        self._moment = moment
        height, frame_width = (max(round(side * width / MP4_WIDTH), 1) for side in frame.shape[:2])
        # Even places, because two pixels share their colour in an MP4.
        self._left, self._line = (width - frame_width) // 4 * 2, height + height % 2
        self._size = (frame_width, height)
        panel = draw_panel(prediction, width, moment)
        self.panel = self._line + _STRIP
        self._empty = np.empty((self.panel + len(panel), width, 3), np.uint8)
        self._empty[:] = DARK
        self._empty[self.panel :] = panel
        if moment is not None and moment.video_s:
            self._empty[self._line : self.panel] = TRACK
            self._empty[self._line : self.panel, self._x(moment.start_s) : self._x(moment.end_s)] = GREY

    def draw(self, frame: NDArray[np.uint8], time_s: float) -> NDArray[np.uint8]:
        """The page, (height, width, 3) uint8 RGB, both even, of a frame that is shown some seconds after the first."""
        page = self._empty.copy()
        if frame.shape[1::-1] != self._size:
            frame = np.asarray(Image.fromarray(frame).resize(self._size, Image.Resampling.BICUBIC))
        page[: self._size[1], self._left : self._left + self._size[0]] = frame
        if self._moment is not None and self._moment.video_s:
            x = self._x(self._moment.start_s + time_s)
            page[self._line : self.panel, max(x - 2, 0) : x + 2] = WHITE
        return page

    def _x(self, time_s: float) -> int:
        """The place of a time of the whole video on the line."""
        assert self._moment is not None
        share = time_s / self._moment.video_s
        return round(min(max(share, 0.0), 1.0) * self._empty.shape[1])
