"""Scores the views that protocols take of the videos of a split, each once, for train.evaluate and the trainer."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from train.data.clip_batches import Batch, ClipBatches
from train.data.loader import iterate
from train.data.videos import check_classes, read_videos
from train.evaluation.metrics import Scores, mean_loss
from train.evaluation.plan import Pass, check_lengths, check_protocols, make_plan
from train.evaluation.protocols import protocols_of
from train.experiment.sections import Config

log = logging.getLogger(__name__)

OnStep = Callable[[int, int, float, Scores, float], None]


class Evaluation:
    """The videos of `data_loader.eval`, and the batches of their views.

    Args:
        config: the whole experiment, with a number in `model.num_classes`.
        rank: number of this process; it looks at the videos rank, rank + world, ...
        world: number of processes that share the videos.

    Attributes:
        config: the same.
        videos: all videos of the split.
        plan: the views of this process's videos.
        num_batches: of this process.

    Raises:
        UserError: the ledger or the shards are missing, the network lacks a class, a protocol needs other frames, or
            every video is shorter than its clips.
    """

    def __init__(self, config: Config, *, rank: int = 0, world: int = 1) -> None:
        loader = config.data_loader.eval
        protocols = protocols_of(config.eval.protocols, loader.dataset)
        check_protocols(protocols, config)
        self.config = config
        self.videos = read_videos(config.preprocess, loader.dataset.split)
        check_classes(config.model, self.videos.label_ids, self.videos.class_names, self.videos.name)
        self._own = own = np.arange(rank, len(self.videos.video_ids), world)
        check_lengths(protocols, config, self.videos.timeline, self.videos.name)
        self.plan = make_plan(protocols, config, self.videos.timeline, own)
        self._batches = [
            (each, ClipBatches(
                self.videos, each.loader, config.preprocess,
                seed=config.train.seed, drop_remainder=False, views=each.views,
            ))
            for each in self.plan.passes if each.views.num_samples(len(own))
        ]  # fmt: skip
        self.num_batches = sum(source.num_batches for _, source in self._batches)

    def batches(self, first: int = 0) -> Iterator[tuple[Pass, Batch]]:
        """Every batch from number `first` of each pass, with the pass that it belongs to.

        Batches of several clip lengths come in the order of their first videos, so that each video is read once.
        """

        def of_pass(each: Pass, source: ClipBatches) -> Iterator[tuple[Pass, Batch]]:
            return ((each, batch) for batch in iterate(source, 0, first))

        def first_video(batch_of: tuple[Pass, Batch]) -> int:
            views_of_pass, (_, _, samples) = batch_of
            return int(views_of_pass.views.video_of(samples[:1])[0])

        return heapq.merge(*(of_pass(*each) for each in self._batches), key=first_video)

    def new_scores(self) -> list[Scores]:
        """Empty scores for each of `plan.counts`."""
        classes, labels = self.config.model.classes, self.videos.label_ids
        scores = [Scores(len(labels), classes, count.protocol.average, labels) for count in self.plan.counts]
        for each, inexact, short in zip(scores, self.plan.inexact, self.plan.short, strict=True):
            each.inexact[self._own], each.short[self._own] = inexact, short
        return scores


def score(predict: Callable[[Tensor], Tensor], source: Evaluation, on_step: OnStep | None = None) -> list[Scores]:
    """Run every view of this process's videos through the network.

    Args:
        predict: uint8 clips (N, T, H, W, 3) -> logits (N, K).
        source: the split's batches.
        on_step: called after each batch with its number, its views, their mean loss (NaN when none is labelled), the
            scores so far of the first protocol that takes clips of this length, and the batch's seconds.

    Returns:
        The scores for each of `source.plan.counts`.
    """
    scores = source.new_scores()
    began = time.perf_counter()
    for number, (views_of_pass, (clips, labels, samples)) in enumerate(source.batches()):
        real = samples >= 0
        logits, labels, samples = predict(Tensor(clips)).asnumpy()[real], labels[real], samples[real]
        videos = views_of_pass.views.video_of(samples)
        for count, times in views_of_pass.times.items():
            used = times[samples] > 0
            scores[count].add(logits[used], labels[used], videos[used], times[samples[used]])
        now = time.perf_counter()
        if on_step is not None:
            first = min(views_of_pass.times)
            on_step(number, len(samples), mean_loss(logits, labels), scores[first], now - began)
        began = now
    return scores


def combine(scores: list[Scores], add_up: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    """Give every process the scores of all videos.

    Args:
        scores: those of this process's videos; they are completed in place.
        add_up: adds up an array over all processes; each element is other than 0 in one of them at most.
    """
    for each in scores:
        for values in each.sums():
            values[...] = add_up(values.astype(np.float64))


def as_evaluated(config: Config) -> Config:
    """The settings with the clip length of the first of `eval.protocols`."""
    loader = config.data_loader.eval
    protocol = next(iter(protocols_of(config.eval.protocols, loader.dataset).values()))
    dataset = replace(loader.dataset, seq=protocol.clip_len or loader.dataset.seq)
    return replace(config, data_loader=replace(config.data_loader, eval=replace(loader, dataset=dataset)))


def log_step(source: Evaluation) -> OnStep:
    """A function for `on_step` that logs zjut_mindvideo's line for each step, with clips/s added."""

    def on_step(number: int, num_views: int, loss: float, scores: Scores, seconds: float) -> None:
        running = scores.of_clips()
        names = {"Loss": "loss", "Top_1_Accuracy": "clip_top1", "Top_5_Accuracy": "clip_top5"}
        of_loss = f", loss:[{'-' if np.isnan(loss) else f'{loss:.3f}'}/{running['loss']:.3f}]" if running else ""
        log.info(
            "step:[%5d/%5d], metrics:%s%s, time:%.3f ms, %.1f clips/s",
            number + 1, source.num_batches,
            [f"{name}: {running[key]:.4f}" for name, key in names.items() if key in running],
            of_loss, 1000 * seconds, num_views / seconds,
        )  # fmt: skip

    return on_step
