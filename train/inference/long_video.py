"""Slides over the whole of a video, whatever its length: scores over time, and segments of one class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder, DecodeResult
from pipeline.shards.encoding import frames_of
from train.data.crops import places
from train.evaluation.metrics import log_softmax
from train.evaluation.plan import check_protocols
from train.evaluation.protocols import protocols_of
from train.experiment.sections import Config
from train.inference.drawing import Presentation
from train.inference.inputs import Input
from train.inference.output import Row, Segment
from train.inference.predict import Predict, in_batches
from train.pictures.prediction import Prediction

_PIECE_FRAMES = 64
_SMOOTHING = np.array([0.25, 0.5, 0.25])  # a change stays where it is


@dataclass(frozen=True)
class Windows:
    """The clips that are taken of a video: one in the middle of every `window_s` seconds.

    Attributes:
        window_s: seconds of a window; the last one may be shorter.
        clip_len: frames of a clip (T).
        step_s: seconds from one frame of a clip to the next; None: `interval` stored frames.
        interval: stored frames from one frame of a clip to the next, without `step_s`.
        top: first row of the crop in a stored frame.
        left: its first column.
        crop: (H, W) of it.
    """

    window_s: float
    clip_len: int
    step_s: float | None
    interval: int
    top: int
    left: int
    crop: tuple[int, int]

    @classmethod
    def of(cls, config: Config, window_s: float) -> Windows:
        """The clips with the length, the rate and the centre crop of the first of `eval.protocols`.

        Raises:
            UserError: the protocol needs other frames than the recipe gives.
        """
        loader, stored = config.data_loader.eval, config.preprocess.frame_size
        name, protocol = next(iter(protocols_of(config.eval.protocols, loader.dataset).items()))
        check_protocols({name: protocol}, config)
        transforms = loader.transforms(stored)
        top, left, _ = places(transforms, stored, np.ones((1, 3)), np.zeros(1, np.int64), half_pixel=protocol.rounding)
        clip_len = protocol.clip_len or loader.dataset.seq
        step_s = 1 / protocol.fps if protocol.frames == "windows" else None
        interval = loader.dataset.frame_interval
        return cls(window_s, clip_len, step_s, interval, int(top[0]), int(left[0]), transforms.crop)

    def count(self, duration_s: float) -> int:
        """How many windows a video has; a rest below a hundredth of one is none."""
        return max(1, math.ceil(duration_s / self.window_s - 0.01))

    def middles_s(self, duration_s: float) -> NDArray[np.float64]:
        """The middle of each window, in seconds."""
        starts = self.window_s * np.arange(self.count(duration_s))
        return (starts + np.minimum(starts + self.window_s, duration_s)) / 2

    def _step(self, fps: float) -> float:
        return self.interval / fps if self.step_s is None else self.step_s

    def clip_s(self, fps: float) -> float:
        """Seconds from the beginning of a clip's first frame to the end of its last one."""
        return (self.clip_len - 1) * self._step(fps) + 1 / fps

    def clip_times_s(self, middle_s: float, duration_s: float, fps: float) -> NDArray[np.float64]:
        """When each frame of a window's clip is shown (T,), inside the video; of a shorter video it repeats."""
        step_s, length_s = self._step(fps), self.clip_s(fps)
        start_s = min(max(middle_s - length_s / 2, 0.0), max(duration_s - length_s, 0.0))
        times_s = start_s + step_s * np.arange(self.clip_len)
        return times_s % duration_s if self.repeats(duration_s, fps) else times_s

    def repeats(self, duration_s: float, fps: float) -> bool:
        """Whether a video is shorter than a clip."""
        return self.clip_s(fps) > duration_s + 0.5 / fps


@dataclass(frozen=True)
class Scan:
    """The scores of a video over time.

    Attributes:
        duration_s: length of the video, or of the part that was decoded.
        fps: stored frames per second.
        middles_s: (W,) the middle of each window.
        scores: (W, K) float32, the probabilities of each window's clip, smoothed over three windows.
        repeats: whether the video is shorter than a clip.
        failure: why the rest cannot be decoded; None: the whole video was.
    """

    duration_s: float
    fps: float
    middles_s: NDArray[np.float64]
    scores: NDArray[np.float32]
    repeats: bool
    failure: DecodeResult | None = None


def scan(pieces: Iterator[DecodeResult], windows: Windows, predict: Predict, batch_size: int) -> Scan | DecodeResult:
    """Score a video while it is decoded, as far as it can be; or why it has not one window.

    Only the frames of a clip and of one piece are in memory.

    Args:
        pieces: of the video, as `Decoder.decode_pieces` gives them.
        windows: the clips to take.
        predict: the network.
        batch_size: clips in a call of it.
    """
    frames = _Frames(windows)
    probabilities: list[NDArray[np.float32]] = []
    clips: list[NDArray[np.uint8]] = []

    def run() -> None:
        probabilities.append(np.exp(log_softmax(in_batches(predict, np.stack(clips), batch_size))).astype(np.float32))
        clips.clear()

    done, failure = 0, None
    for piece in pieces:
        if piece.status != "ok":
            failure = piece
            break
        is_last, fps = bool(piece.facts["is_last"]), float(piece.facts["fps"])
        duration_s = float(piece.facts["duration_s"])
        if piece.encoded is not None:
            frames.add(frames_of(piece.encoded), piece.encoded.times_s)
        middles_s = windows.middles_s(duration_s)
        while done < len(middles_s):
            times_s = windows.clip_times_s(float(middles_s[done]), duration_s, fps)
            if not is_last and times_s.max() >= frames.until_s:
                frames.forget_before(float(times_s.min()))
                break
            clips.append(frames.clip(times_s))
            done += 1
            if len(clips) == batch_size:
                run()
    if failure is not None and not done:
        return failure
    if clips:
        run()
    if failure is not None:
        duration_s = min(duration_s, windows.window_s * done)
        middles_s = middles_s[:done]
    smoothed = _smooth(np.concatenate(probabilities))[: len(middles_s)]
    return Scan(duration_s, fps, middles_s, smoothed, windows.repeats(duration_s, fps), failure)


class _Frames:
    """The latest stored frames of a video, cropped, in the pieces in which they came."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._pieces: list[NDArray[np.uint8]] = []
        self._times: list[NDArray[np.float32]] = []

    @property
    def until_s(self) -> float:
        """The time of the last frame that is here."""
        return float(self._times[-1][-1]) if self._times else -1.0

    def add(self, frames: NDArray[np.uint8], times_s: NDArray[np.float32]) -> None:
        """Keep a copy of a piece."""
        (height, width), top, left = self._windows.crop, self._windows.top, self._windows.left
        self._pieces.append(frames[:, top : top + height, left : left + width].copy())
        self._times.append(times_s.copy())

    def forget_before(self, time_s: float) -> None:
        """Drop the pieces that end before a time; the frame that is shown then stays."""
        while len(self._times) > 1 and self._times[1][0] <= time_s:
            del self._pieces[0], self._times[0]

    def clip(self, times_s: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The frames (T, H, W, 3) that are shown at these times."""
        known_s = np.concatenate(self._times)
        numbers = np.maximum(np.searchsorted(known_s, times_s + 1e-3, "right") - 1, 0)
        starts = list(itertools.accumulate((len(each) for each in self._times), initial=0))
        owners = np.searchsorted(starts, numbers, "right") - 1
        return np.stack([self._pieces[k][number - starts[k]] for k, number in zip(owners, numbers, strict=True)])


def _smooth(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean (W, K) of each window with its neighbours; at the ends the window itself counts for a missing one."""
    padded = np.concatenate([scores[:1], scores, scores[-1:]])
    return sum(weight * padded[k : k + len(scores)] for k, weight in enumerate(_SMOOTHING.astype(np.float32)))  # type: ignore[return-value]


def segments_of(found: Scan, windows: Windows, names: Sequence[str]) -> list[Segment]:
    """Windows in a row with the same best class as segments."""
    best = np.argmax(found.scores, axis=1)
    changes = np.flatnonzero(np.diff(best)) + 1
    segments = []
    for first, last in itertools.pairwise([0, *changes.tolist(), len(best)]):
        label = int(best[first])
        end_s = found.duration_s if last == len(best) else windows.window_s * last
        score = float(found.scores[first:last, label].mean())
        segments.append(Segment(windows.window_s * first, end_s, names[label], score))
    return segments


def predict_windows(
    inputs: Sequence[Input], predict: Predict, config: Config, windows: Windows, shown: Presentation
) -> Iterator[Row]:
    """Predict the whole of each video; a bad one has a row, too.

    Args:
        inputs: the videos.
        predict: the network.
        config: its recipe and the batch size of `data_loader.eval` are used.
        windows: the clips to take.
        shown: what rows and pictures have; classes in a row are those of the best mean score.

    Raises:
        MachineError: as `Decoder.decode_pieces`.
        OSError: a picture cannot be written.
    """
    settings: Preprocess = replace(config.preprocess, data_root="")
    batch_size = config.data_loader.eval.dataset.batch_size
    with Decoder(settings) as decoder:
        for each in inputs:
            found = scan(decoder.decode_pieces(each.path, _PIECE_FRAMES), windows, predict, batch_size)
            if isinstance(found, DecodeResult):
                yield Row(str(each.path), found.status, found.reason, true_label=each.true_label)
            else:
                yield _row(each, found, windows, shown)


def _row(each: Input, found: Scan, windows: Windows, shown: Presentation) -> Row:
    names, drawing = shown.names, shown.drawing
    segments = segments_of(found, windows, names)
    top = shown.best(found.scores.mean(axis=0))
    leading = np.unique(np.argmax(found.scores, axis=1))
    pictures = []
    if drawing is not None:
        sure = int(np.argmax(found.scores.max(axis=1)))
        moment_s = float(found.middles_s[sure])
        (within_s,) = (part[:2] for part in segments if part.start_s <= moment_s < part.end_s)
        pictures = drawing.draw(
            each.name, each.path, Prediction(shown.best(found.scores[sure]), each.true_label),
            duration_s=found.duration_s, moment_s=moment_s, within_s=within_s,
        )  # fmt: skip
        pictures.append(drawing.draw_timeline(each.name, found.middles_s, found.scores, names, segments))
    status, reason = "ok", ""
    if found.failure is not None:
        status = found.failure.status
        reason = f"{found.failure.reason.rstrip('.')}; predicted until {found.duration_s:.2f} s"
    return Row(
        str(each.path), status, reason, top=top, true_label=each.true_label,
        protocol=f"windows of {windows.window_s:g} s", views_s=[(0.0, found.duration_s)], repeats=found.repeats,
        segments=segments,
        times_s=found.middles_s.tolist(),
        scores={names[number]: found.scores[:, number].tolist() for number in leading.tolist()}, pictures=pictures,
    )  # fmt: skip
