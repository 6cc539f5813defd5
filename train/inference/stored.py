"""Predicts the stored videos of a split with the numbers of `make eval`, and finds the labels of files in ledgers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.common.recipe import SPLITS, Preprocess
from pipeline.ledger import files
from pipeline.ledger.table import ledger_path, read_columns
from pipeline.shards.reader import ShardReader
from train.evaluation.results import results_of
from train.evaluation.scoring import Evaluation, log_step, score
from train.inference.drawing import Presentation
from train.inference.inputs import Input
from train.inference.output import Row
from train.inference.predict import Predict
from train.pictures.prediction import Prediction, StoredVideo


def shown_names(source: Evaluation) -> list[str]:
    """What the rows of the stored videos of a split call them: their files, or their ids where these are gone.

    Raises:
        UserError: the ledger cannot be read.
    """
    video_ids = source.videos.video_ids
    paths = paths_of(source.config.preprocess, source.videos.split, video_ids)
    return [str(path or video_id) for path, video_id in zip(paths, video_ids, strict=True)]


def paths_of(settings: Preprocess, split: str, video_ids: list[str]) -> list[Path | None]:
    """The file of each video of a split; None where it is not there any more.

    Raises:
        UserError: the ledger cannot be read.
    """
    if not settings.data_root:
        return [None] * len(video_ids)
    table = read_columns(ledger_path(settings, split), ["video_id", "path"])
    known = {
        video_id: Path(settings.data_root, path)
        for video_id, path in zip(table["video_id"].tolist(), table["path"].tolist(), strict=True) if path
    }  # fmt: skip
    return [path if (path := known.get(each)) is not None and path.is_file() else None for each in video_ids]


def with_true_labels(inputs: Sequence[Input], settings: Preprocess) -> list[Input]:
    """The same videos, with the labels that ledgers have of those in `data_root`, where no list gave one.

    Raises:
        UserError: a ledger cannot be read.
    """
    root = os.path.realpath(settings.data_root)
    inside = [settings.data_root and os.path.realpath(each.path).startswith(os.path.join(root, "")) for each in inputs]
    if not any(inside):
        return list(inputs)
    labels: dict[str, str] = {}
    for split in SPLITS:
        if files.exists(path := ledger_path(settings, split)):
            table = read_columns(path, ["path", "label"])
            labels |= dict(zip(table["path"].tolist(), table["label"].tolist(), strict=True))
    places = [os.path.relpath(os.path.realpath(each.path), root) for each in inputs]
    return [
        replace(each, true_label=each.true_label or labels.get(place) or None)
        for each, place in zip(inputs, places, strict=True)
    ]


def predict_stored(predict: Predict, source: Evaluation, shown: Presentation) -> Iterator[Row]:
    """Predict every video of a split; the rows come in the ledger's order, after all are scored.

    Args:
        predict: the network.
        source: the split with one protocol.
        shown: what rows and pictures have.

    Raises:
        OSError: a picture cannot be written.
        ShardError: a shard is corrupted.
    """
    scores = score(predict, source, log_step(source))
    (result,) = results_of(source, scores)
    videos = source.videos
    paths = paths_of(source.config.preprocess, videos.split, videos.video_ids)
    spans, durations_s = _spans_s(source)
    for number, video_id in enumerate(videos.video_ids):
        label, path = int(videos.label_ids[number]), paths[number]
        true_label = shown.names[label] if label >= 0 else None
        name = str(path or video_id)
        if not result.views[number]:
            yield Row(name, "too_short", f"shorter than a clip of {result.name}", true_label=true_label)
            continue
        top = shown.best(result.probabilities[number])
        pictures = []
        if shown.drawing is not None:
            pictures = shown.drawing.draw(
                f"{videos.split}/{video_id}", path or _stored(source, number), Prediction(top, true_label),
                duration_s=durations_s[number], moment_s=sum(spans[number][0]) / 2,
            )  # fmt: skip
        yield Row(
            name, "ok", top=top, true_label=true_label, protocol=result.name, views_s=spans[number],
            repeats=bool(scores[0].short[number]), pictures=pictures,
        )  # fmt: skip


def _stored(source: Evaluation, number: int) -> StoredVideo:
    """The stored frames of a video."""
    videos = source.videos
    reader = ShardReader(videos.shards[videos.shard_of[number]])
    try:
        frames = reader.frames(reader.row_of(videos.video_ids[number])).copy()
    finally:
        reader.close()
    height, width = videos.source_sizes[number].tolist()
    return StoredVideo(frames, float(videos.timeline.stored_fps[number]), (height, width))


def _spans_s(source: Evaluation) -> tuple[list[list[tuple[float, float]]], list[float]]:
    """The seconds (start, end) of the clips of each video, and the length of each video in seconds."""
    videos, frame_s = source.videos, 1 / np.maximum(source.videos.timeline.stored_fps, 1e-9)
    frames: list[set[tuple[int, int]]] = [set() for _ in videos.video_ids]
    for each in source.plan.passes:
        samples = np.arange(each.views.num_samples(len(videos.video_ids)))
        owners = each.views.video_of(samples)
        chosen = each.views.cuts(samples, videos.timeline.of(owners)).frames
        for owner, first, last in zip(
            owners.tolist(), chosen.min(axis=1).tolist(), chosen.max(axis=1).tolist(), strict=True
        ):
            frames[owner].add((first, last))
    spans: list[list[tuple[float, float]]] = [[] for _ in videos.video_ids]
    durations_s = [0.0] * len(videos.video_ids)
    for shard, path in enumerate(videos.shards):
        reader = ShardReader(path)
        for number in np.flatnonzero(videos.shard_of == shard).tolist():
            times_s = reader.times_s(reader.row_of(videos.video_ids[number]))
            ends_s = times_s + frame_s[number]
            spans[number] = [(float(times_s[a]), float(ends_s[b])) for a, b in sorted(frames[number])]
            durations_s[number] = float(ends_s[-1])
        reader.close()
    return spans, durations_s
