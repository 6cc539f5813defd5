"""Predicts video files, for train.infer: while some are decoded, with what evaluation would say of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.common.errors import MachineError
from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import Decoder, DecodeResult
from train.data.prefetch import Prefetcher
from train.inference.decoded import DecodedVideo, decode_videos
from train.inference.drawing import Presentation
from train.inference.inputs import Input
from train.inference.output import Row
from train.inference.predict import TooShort, VideoPredictor, VideoScores, VideoViews
from train.pictures.prediction import Prediction


def predict_files(
    inputs: Sequence[Input], predictor: VideoPredictor, settings: Preprocess, shown: Presentation
) -> Iterator[Row]:
    """Predict videos; a bad one has a row, too.

    Args:
        inputs: the videos.
        predictor: predicts one.
        settings: the recipe of its frames.
        shown: what rows and pictures have.

    Raises:
        MachineError: as `decode_videos`.
        OSError: a picture cannot be written.
    """
    waiting: list[_Waiting | Row] = []
    num_clips = 0
    with Decoder(replace(settings, data_root="")) as decoder:
        videos = decode_videos(decoder, inputs)
        seen = Prefetcher(
            lambda number: _seen(inputs[number], next(videos), predictor),
            len(inputs), num_threads=1, depth=predictor.videos_per_batch + 1, timeout_s=None,
        )  # fmt: skip
        try:
            for each in seen:
                waiting.append(each)
                num_clips += len(each.views.clips) if isinstance(each, _Waiting) else 0
                if not num_clips or num_clips >= predictor.batch_size:
                    ready, waiting, num_clips = waiting, [], 0
                    yield from _finished(ready, predictor, shown)
        except MachineError:
            yield from _finished(waiting, predictor, shown)
            raise
        finally:
            decoder.stop()
            seen.close()
    yield from _finished(waiting, predictor, shown)


class _Waiting(NamedTuple):
    """A video whose views wait until a batch is full, and the times (T,) and the rate of its stored frames."""

    input: Input
    views: VideoViews
    times_s: NDArray[np.float32]
    fps: float


def _seen(each: Input, video: DecodedVideo | DecodeResult, predictor: VideoPredictor) -> _Waiting | Row:
    """A video as the network is to see it, or the row of one that it cannot see."""
    path = str(each.path)
    if isinstance(video, DecodeResult):
        return Row(path, video.status, video.reason + _hint(video), true_label=each.true_label)
    try:
        return _Waiting(each, predictor.views(video.frames, video.timeline), video.times_s, video.fps)
    except TooShort as error:
        return Row(path, "too_short", str(error), true_label=each.true_label)


def _hint(result: DecodeResult) -> str:
    """What to do about a video that is too long to be decoded whole."""
    long = any(f" {unit}, at most " in result.reason for unit in ("s", "bytes", "stored frames"))
    return " (--window=1 takes longer ones)" if result.status == "too_large" and long else ""


def _finished(waiting: list[_Waiting | Row], predictor: VideoPredictor, shown: Presentation) -> Iterator[Row]:
    """The rows of these videos, in order."""
    seen = [each for each in waiting if isinstance(each, _Waiting)]
    scores = iter(predictor.scores([each.views for each in seen]) if seen else ())
    for each in waiting:
        yield each if isinstance(each, Row) else _row(each, next(scores), predictor.protocol, shown)


def _row(video: _Waiting, scores: VideoScores, protocol: str, shown: Presentation) -> Row:
    each, times_s, frame_s = video.input, video.times_s, 1 / video.fps
    top = shown.best(scores.probabilities)
    views_s = [(float(times_s[a]), float(times_s[b]) + frame_s) for a, b in scores.spans.tolist()]
    pictures = []
    if shown.drawing is not None:
        pictures = shown.drawing.draw(
            each.name, each.path, Prediction(top, each.true_label),
            duration_s=float(times_s[-1]) + frame_s, moment_s=sum(views_s[scores.best]) / 2,
        )  # fmt: skip
    return Row(
        str(each.path), "ok", top=top, true_label=each.true_label, protocol=protocol, views_s=views_s,
        repeats=scores.repeats, pictures=pictures,
    )  # fmt: skip
