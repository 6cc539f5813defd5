"""Scores every view of every video of a split, and writes the results as files, for train.evaluate and the trainer."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from pipeline.common.files import replacing, write_json
from train.data.clip_batches import ClipBatches
from train.data.loader import iterate
from train.data.videos import Videos, check_classes, read_videos
from train.evaluation.metrics import Scores
from train.experiment.sections import Config

log = logging.getLogger(__name__)


def score(
    predict: Callable[[Tensor], Tensor],
    source: ClipBatches,
    on_step: Callable[[int, int, float, Scores, float], None] | None = None,
) -> Scores:
    """Run every view of every video through the network.

    Args:
        predict: uint8 clips (N, T, H, W, 3) -> logits (N, K).
        source: the split's batches.
        on_step: called after each batch with its number, its views, their mean loss (NaN when none is labelled), the
            scores so far and its seconds.
    """
    scores: Scores | None = None
    began = time.perf_counter()
    for number, (clips, labels, samples) in enumerate(iterate(source, epoch=0)):
        logits = predict(Tensor(clips)).asnumpy()
        real = samples >= 0
        if scores is None:
            scores = Scores(len(source.videos.video_ids), logits.shape[1])
        loss = scores.add(logits[real], labels[real], samples[real] // source.views.num_views)
        now = time.perf_counter()
        if on_step is not None:
            on_step(number, int(real.sum()), loss, scores, now - began)
        began = now
    assert scores is not None
    return scores


def evaluation_source(config: Config) -> ClipBatches:
    """The batches of `data_loader.eval`."""
    loader = config.data_loader.eval
    videos = read_videos(config.preprocess, loader.dataset.split)
    check_classes(config.model, videos.label_ids, videos.class_names, videos.name)
    return ClipBatches(videos, loader, config.preprocess, seed=config.train.seed, drop_remainder=False)


def log_step(source: ClipBatches) -> Callable[[int, int, float, Scores, float], None]:
    """A function for `on_step` that logs zjut_mindvideo's line for each step, with clips/s added."""

    def on_step(number: int, num_views: int, loss: float, scores: Scores, seconds: float) -> None:
        running = scores.of_clips()
        names = {"Loss": "loss", "Top_1_Accuracy": "clip_top1", "Top_5_Accuracy": "clip_top5"}
        log.info(
            "step:[%5d/%5d], metrics:%s, loss:[%.3f/%.3f], time:%.3f ms, %.1f clips/s",
            number + 1, source.num_batches,
            [f"{name}: {running[key]:.4f}" for name, key in names.items() if key in running],
            loss, running.get("loss", float("nan")), 1000 * seconds, num_views / seconds,
        )  # fmt: skip

    return on_step


def write_results(folder: Path, name: str, source: ClipBatches, scores: Scores, summary: dict[str, Any]) -> Path:
    """Write `<name>.json` (`summary`) and `<name>.csv` (label, best five classes and probability of each video).

    Returns:
        The path of the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos, probabilities = source.videos, scores.probabilities()
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    with (
        replacing(folder / f"{name}.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_id", "label_id", "label", "predicted_id", "predicted", "probability", "top5"])
        for row, video_id in enumerate(videos.video_ids):
            label, top = int(videos.label_ids[row]), best[row]
            writer.writerow([
                video_id, label, _class_name(videos, label), int(top[0]), _class_name(videos, int(top[0])),
                f"{probabilities[row, top[0]]:.6f}", " ".join(map(str, top)),
            ])  # fmt: skip
    write_json(folder / f"{name}.json", summary)
    return folder / f"{name}.json"


def _class_name(videos: Videos, label_id: int) -> str:
    return videos.class_names[label_id] if 0 <= label_id < len(videos.class_names) else ""
