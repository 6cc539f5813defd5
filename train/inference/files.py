"""Predicts video files, for train.infer: one after another, with what evaluation would say of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.common.recipe import Preprocess
from pipeline.decoding.process import DecodeResult
from train.inference.decoded import DecodedVideo, decode_videos
from train.inference.drawing import Drawing
from train.inference.inputs import Input
from train.inference.output import Row, best_classes
from train.inference.predict import TooShort, VideoPredictor
from train.pictures.prediction import Prediction


def predict_files(
    inputs: Sequence[Input],
    predictor: VideoPredictor,
    settings: Preprocess,
    names: list[str],
    top_k: int,
    drawing: Drawing | None,
) -> Iterator[Row]:
    """Predict videos; a bad one has a row, too.

    Args:
        inputs: the videos.
        predictor: predicts one.
        settings: the recipe of its frames.
        names: of the classes, (K,).
        top_k: classes in a row.
        drawing: draws pictures; None: none.

    Raises:
        MachineError: as `decode_videos`.
        OSError: a picture cannot be written.
    """
    for each, video in zip(inputs, decode_videos(inputs, settings), strict=True):
        path = str(each.path)
        if isinstance(video, DecodeResult):
            yield Row(path, video.status, video.reason + _hint(video), true_label=each.true_label)
            continue
        try:
            yield _predict(each, video, predictor, names, top_k, drawing)
        except TooShort as error:
            yield Row(path, "too_short", str(error), true_label=each.true_label)


def _hint(result: DecodeResult) -> str:
    """What to do about a video that is too long to be decoded whole."""
    long = any(f" {unit}, at most " in result.reason for unit in ("s", "bytes", "stored frames"))
    return " (--window=1 takes longer ones)" if result.status == "too_large" and long else ""


def _predict(
    each: Input,
    video: DecodedVideo,
    predictor: VideoPredictor,
    names: list[str],
    top_k: int,
    drawing: Drawing | None,
) -> Row:
    scores = predictor(video.frames, video.timeline)
    top = best_classes(scores.probabilities, names, top_k)
    frame_s = 1 / video.fps
    views_s = [(float(video.times_s[a]), float(video.times_s[b]) + frame_s) for a, b in scores.spans.tolist()]
    pictures = []
    if drawing is not None:
        pictures = drawing.draw(
            each.name, each.path, video.frames, video.fps, Prediction(top, each.true_label),
            duration_s=float(video.times_s[-1]) + frame_s, moment_s=sum(views_s[scores.best]) / 2,
        )  # fmt: skip
    return Row(
        str(each.path), "ok", top=top, true_label=each.true_label, protocol=predictor.protocol, views_s=views_s,
        repeats=scores.repeats, pictures=pictures,
    )  # fmt: skip
