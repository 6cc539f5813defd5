"""The results of an evaluation: a table for people, and files for each protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.files import replacing, write_json
from pipeline.common.settings import to_plain
from pipeline.common.tables import write_rows
from train.data.videos import Videos
from train.evaluation.metrics import Scores, wilson
from train.evaluation.protocols import PUBLISHED_FOR, PUBLISHED_LENGTHS, Protocol
from train.evaluation.scoring import Evaluation
from train.experiment.sections import Config

_COLUMNS = (
    "protocol", "top-1", "95 %", "top-5", "95 %", "mean class", "loss", "clips", "videos", "published", "difference",
)  # fmt: skip
# Keys of `data_loader.eval.dataset` that change no result.
_OF_SPEED = (
    "batch_size", "num_parallel_workers", "verify_checksums", "batch_timeout_s", "shuffle", "shuffle_shards", "type",
    "path",
)  # fmt: skip
_BEFORE_SUMMARY = {"videos.csv", "scores.npz", "classes.csv", "confusion.csv", "confusion.png"}
MOST_CONFUSED = 20  # pairs of classes in summary.json

Draw = Callable[[Path, NDArray[np.int64], list[str]], None]
"""Draws a confusion matrix (K, K) of classes with these names as a PNG."""


@dataclass(frozen=True)
class Result:
    """What one protocol gives.

    Attributes:
        name: of the protocol.
        protocol: the protocol.
        summary: counts and accuracies by name, as in summary.json.
        probabilities: (V, K) float64, the score of each video.
        losses: (V,) float64, NaN without label or clip.
        views: (V,) int64, clips and crops of each video.
        of_seeds: (S, V, K) float64, the scores of each seed, whose mean is `probabilities`; S is 1 where nothing is
            drawn.
    """

    name: str
    protocol: Protocol
    summary: dict[str, Any]
    probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]
    views: NDArray[np.int64]
    of_seeds: NDArray[np.float64]


def results_of(source: Evaluation, scores: Sequence[Scores]) -> list[Result]:
    """The results of each protocol, whose scores are those of all videos.

    A protocol that draws its clips has the mean over its seeds, and the standard deviation as `spread`.
    """
    results: dict[str, list[int]] = {}
    for number, count in enumerate(source.plan.counts):
        results.setdefault(count.name, []).append(number)
    return [_result(source, name, numbers, scores) for name, numbers in results.items()]


def _result(source: Evaluation, name: str, numbers: list[int], scores: Sequence[Scores]) -> Result:
    protocol = source.plan.counts[numbers[0]].protocol
    ours = [scores[number] for number in numbers]
    summaries = [each.summary() for each in ours]
    summary: dict[str, Any] = {key: float(np.mean([each[key] for each in summaries])) for key in summaries[0]}
    summary |= {key: int(sum(each[key] for each in summaries)) for key in summary if key.endswith("_clips")}
    summary |= {key: int(value) for key, value in summary.items() if key.endswith("_videos")}
    inexact = np.any([each.inexact for each in ours], axis=0)
    summary |= {"num_inexact_videos": int(inexact.sum()), "num_short_videos": int(ours[0].short.sum())}
    if len(ours) > 1:
        summary["spread"] = {
            key: float(np.std([each[key] for each in summaries]))
            for key in ("clip_top1", "clip_top5", "video_top1", "video_top5") if key in summary
        }  # fmt: skip
    if "video_top1" in summary:
        summary |= _of_labelled(source, protocol, summary, ours)
    of_seeds = np.stack([each.probabilities() for each in ours])
    summary["num_nan_videos"] = int(np.isnan(of_seeds).any(axis=(0, 2)).sum())
    losses = np.mean([each.losses() for each in ours], axis=0)
    views = np.sum([each.views for each in ours], axis=0)
    return Result(name, protocol, summary, of_seeds.mean(axis=0), losses, views, of_seeds)


def _of_labelled(
    source: Evaluation, protocol: Protocol, summary: dict[str, Any], scores: Sequence[Scores]
) -> dict[str, Any]:
    """Headline, intervals, mean-class accuracy and the bound for missing videos."""
    level, total = protocol.level, summary[f"num_labelled_{protocol.level}s"] // len(scores)
    more: dict[str, Any] = {"level": level}
    for k in (1, 5):
        more[f"top{k}"] = summary[f"{level}_top{k}"]
        more[f"top{k}_interval"] = wilson(more[f"top{k}"] * total, total)
    more["mean_class"] = float(np.mean([_mean_class(each) for each in scores]))
    listed = source.videos.num_listed
    for k in (1, 5):
        right = summary[f"video_top{k}"] * summary["num_labelled_videos"]
        more[f"video_top{k}_if_missing_are_wrong"] = right / listed if listed else 0.0
    more["num_listed_videos"] = listed
    if published := _published(source.config, protocol):
        more["published"] = {"top1": published[0], "top5": published[1]}
        more["difference"] = {"top1": 100 * more["top1"] - published[0], "top5": 100 * more["top5"] - published[1]}
    return more


def _mean_class(scores: Scores) -> float:
    """The mean over classes of the accuracy of each class's videos."""
    labelled = scores.labels >= 0
    right = np.bincount(scores.labels[labelled], weights=scores.video_hits()[0][labelled])
    totals = np.bincount(scores.labels[labelled])
    return float((right[totals > 0] / totals[totals > 0]).mean())


def _published(config: Config, protocol: Protocol) -> tuple[float, float] | None:
    """The published top-1 and top-5 in % of this network; None where classes, split, frames or clips are others."""
    loader, stored = config.data_loader.eval, config.preprocess.frame_size
    seen = (*stored, *loader.transforms(stored).crop)
    comparable = (
        config.model.classes == 400 and loader.dataset.split == "val" and seen == PUBLISHED_FOR
        and (protocol.clip_len or loader.dataset.seq) in PUBLISHED_LENGTHS
    )  # fmt: skip
    return protocol.published.get(config.model.type) if comparable else None


def table_of(results: Sequence[Result]) -> list[str]:
    """The lines of a table for people: a row for each protocol, accuracies in %.

    The clips and videos are those that accuracies are divided by; without labels they are all.
    """
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for result in results:
        values = result.summary
        if "top1" not in values:
            rows.append((result.name, *["-"] * 6, f"{values['num_clips']:,}", f"{values['num_videos']:,}", "-", "-"))
            continue
        spread = values.get("spread", {})
        cells = [result.name]
        for k in (1, 5):
            level = f"{values['level']}_top{k}"
            low, high = values[f"top{k}_interval"]
            cells.append(f"{100 * values[f'top{k}']:.2f}" + (f" +- {100 * spread[level]:.2f}" if spread else ""))
            cells.append(f"{100 * low:.2f}-{100 * high:.2f}")
        published, difference = values.get("published"), values.get("difference")
        rows.append((
            *cells, f"{100 * values['mean_class']:.2f}", f"{values['loss']:.4f}",
            f"{values['num_labelled_clips']:,}",
            f"{values['num_labelled_videos']:,} of {values['num_listed_videos']:,}",
            f"{published['top1']:.2f} / {published['top5']:.2f}" if published else "-",
            f"{difference['top1']:+.2f} / {difference['top5']:+.2f}" if difference else "-",
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def line_of(result: Result, where: str) -> str:
    """One line with both levels and what they are divided by."""
    values = result.summary
    if not values["num_labelled_videos"]:
        return f"{where} has no labels: predictions only"
    if "video_top1" not in values:
        return f"{where}: none of its {values['num_labelled_videos']} labelled videos has a clip: predictions only"
    return (
        f"video top-1 {values['video_top1']:.4f} top-5 {values['video_top5']:.4f}, "
        f"clip top-1 {values['clip_top1']:.4f} top-5 {values['clip_top5']:.4f}, loss {values['loss']:.4f}: "
        f"{where}, {values['num_labelled_clips']} clips, {values['num_labelled_videos']} labelled videos, "
        f"{result.name}; if missing videos were wrong, top-1 {values['video_top1_if_missing_are_wrong']:.4f} of "
        f"{values['num_listed_videos']}"
    )


def names_of_classes(count: int, *known: Sequence[str]) -> list[str]:
    """A name for each class: of the first list that has one, else its number."""
    names = []
    for number in range(count):
        given = (each[number] for each in known if number < len(each) and each[number])
        names.append(next(given, f"class {number}"))
    return names


def settings_of(config: Config, weights_sha256: str, videos: Videos) -> dict[str, Any]:
    """What decides a result; two results of one name with other settings are kept apart."""
    dataset = to_plain(config.data_loader.eval.dataset)
    return {
        "weights_sha256": weights_sha256,
        "videos": videos.name,
        "frames_sha256": videos.frames_sha256(),
        "seed": config.train.seed,
        "model": {key: value for key, value in to_plain(config.model).items() if key != "layout"},
        "dataset": {key: value for key, value in dataset.items() if key not in _OF_SPEED},
        "map": to_plain(config.data_loader.eval.map),
        "recipe": config.preprocess.stored(),
    }


def folder_for(parent: Path, name: str, settings: dict[str, Any]) -> Path:
    """`<parent>/<name>`, or `<name>-2` and so on where a result of other settings, or anything else, has that name.

    Args:
        parent: the folder of results.
        name: checkpoint, protocol and split.
        settings: `settings_of` this evaluation.
    """
    number, folder = 1, parent / name
    while os.path.lexists(folder) and not _may_write(folder, settings):
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def _may_write(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder has a result of these settings, or only what a stopped evaluation left."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if "summary.json" not in names:
        return names <= _BEFORE_SUMMARY
    try:
        theirs = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False  # it cannot be read, so it is kept
    return bool(theirs == json.loads(json.dumps(settings)))


def write_files(
    folder: Path, source: Evaluation, result: Result, names: list[str], facts: dict[str, Any],
    settings: dict[str, Any], draw: Draw,
) -> None:  # fmt: skip
    """Write the files of one protocol; summary.json comes last, so that a folder with it is complete.

    Of a protocol that draws its clips, classes.csv and the confusion matrix count each video once for each seed, so
    that they agree with the mean over seeds; videos.csv has the mean of the seeds' probabilities.

    Args:
        folder: made if it does not exist.
        source: what was evaluated.
        result: of the protocol.
        names: of the classes, (K,).
        facts: added to summary.json.
        settings: `settings_of` this evaluation.
        draw: draws confusion.png; not called without labels.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos, labelled = source.videos, source.videos.label_ids >= 0
    _write_csv(folder / "videos.csv", _video_rows(source, result, names))
    seeds = {"seed_probabilities": result.of_seeds} if len(result.of_seeds) > 1 else {}
    with replacing(folder / "scores.npz", ".npz") as temporary:
        np.savez(
            temporary, probabilities=result.probabilities, video_ids=np.array(videos.video_ids),
            class_names=np.array(names), label_ids=videos.label_ids, views=result.views, **seeds,
        )  # fmt: skip
    summary = {**facts, "protocol": result.name, **result.summary, "settings": settings}
    if not np.isfinite(summary.get("loss", 0.0)):
        summary["loss"] = None  # JSON has no NaN
    if labelled.any():
        matrix = confusion(videos.label_ids, result)
        totals = np.bincount(videos.label_ids[labelled], minlength=len(names)) * len(result.of_seeds)
        _write_csv(folder / "classes.csv", _class_rows(matrix, totals, names))
        _write_csv(folder / "confusion.csv", _confusion_rows(matrix, names))
        draw(folder / "confusion.png", matrix, names)
        summary["most_confused"] = most_confused(matrix, names)
    write_json(folder / "summary.json", summary)


def confusion(labels: NDArray[np.int32], result: Result) -> NDArray[np.int64]:
    """(K, K) videos by label and predicted class, of all seeds; videos without label or view are left out."""
    seen = (labels >= 0) & (result.views > 0)
    classes = result.probabilities.shape[1]
    best = result.of_seeds[:, seen].argmax(axis=2)
    places = (labels[seen].astype(np.int64) * classes + best).ravel()
    return np.bincount(places, minlength=classes * classes).reshape(classes, classes)


def most_confused(matrix: NDArray[np.int64], names: list[str]) -> list[dict[str, Any]]:
    """The pairs of classes that are taken for each other most often, most first."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    return [
        {"label": names[label], "predicted": names[predicted], "videos": int(wrong[label, predicted])}
        for label, predicted in pairs if wrong[label, predicted]
    ]  # fmt: skip


def _write_csv(path: Path, rows: Iterator[Sequence[object]]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write_rows(file, rows)


def _video_rows(source: Evaluation, result: Result, names: list[str]) -> Iterator[Sequence[object]]:
    ranks = range(1, min(5, len(names)) + 1)
    columns = [f"{what}_{rank}" for rank in ranks for what in ("predicted_id", "predicted", "probability")]
    yield ["video_id", "label_id", "label", "views", "loss", *columns]
    videos = source.videos
    best = np.argsort(-result.probabilities, axis=1, kind="stable")[:, : len(ranks)]
    chosen = np.take_along_axis(result.probabilities, best, axis=1)
    rows = zip(
        videos.video_ids, videos.label_ids.tolist(), result.views.tolist(), result.losses.tolist(), best.tolist(),
        chosen.tolist(), strict=True,
    )  # fmt: skip
    for video_id, label, views, loss, top, probabilities in rows:
        cells: list[object] = []
        for each, probability in zip(top, probabilities, strict=True):
            cells += [each, names[each], f"{probability:.6f}"] if views else ["", "", ""]
        name = names[label] if label >= 0 else ""
        yield [video_id, label, name, views, f"{loss:.6f}" if loss == loss else "", *cells]


def _class_rows(matrix: NDArray[np.int64], totals: NDArray[np.int64], names: list[str]) -> Iterator[Sequence[object]]:
    """A row for each class; a video without a clip counts as wrong, as in the mean over classes."""
    yield ["label_id", "label", "videos", "correct", "accuracy", "predicted", "precision"]
    taken, right = matrix.sum(axis=0), matrix.diagonal()
    for number, name in enumerate(names):
        accuracy = f"{right[number] / totals[number]:.6f}" if totals[number] else ""
        precision = f"{right[number] / taken[number]:.6f}" if taken[number] else ""
        yield [number, name, totals[number], right[number], accuracy, taken[number], precision]


def _confusion_rows(matrix: NDArray[np.int64], names: list[str]) -> Iterator[Sequence[object]]:
    yield ["label", *names]
    for name, row in zip(names, matrix.tolist(), strict=True):
        yield [name, *row]
