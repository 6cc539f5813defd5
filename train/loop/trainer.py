"""The training loop of train.train: steps, evaluations and checkpoints; it can stop and resume after any step."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.common.errors import EXIT_RETRY, UserError
from pipeline.common.settings import Document
from train.data.clip_batches import Batch, ClipBatches
from train.data.loader import iterate, waiting_hint
from train.data.videos import check_classes, check_same_classes, read_videos
from train.data.views import CLIP_POLICY, Views
from train.device.processes import Exchange, World
from train.device.select import without_tf32
from train.device.signals import StopRequests, TrainingStopped
from train.evaluation.results import results_of
from train.evaluation.scoring import Evaluation, combine, score
from train.experiment.sections import Config
from train.loop import best, dropout
from train.loop.compile_cache import cached_compilation
from train.loop.free_space import check_free_space
from train.loop.health import FiniteLosses, evaluation_memory_errors, training_memory_errors
from train.loop.log_values import UNKNOWN, Interval, Remaining
from train.loop.lr_schedule import learning_rates
from train.loop.position import Position
from train.loop.resume import check_clip_settings, check_schedule, clip_settings, what_changed
from train.loop.running_statistics import RunningStatistics
from train.loop.step import NetworkWithLoss, TrainStep, make_optimizer
from train.network.batch_limit import check_batch
from train.network.build import build_network
from train.network.normalize import Normalize
from train.network.precision import set_amp_level
from train.network.predictor import Predictor
from train.runs.run_folder import RunFolder
from train.weights import checkpoint
from train.weights.compatibility import check_class_names
from train.weights.load import load_weights
from train.weights.record import network_of, views_of

log = logging.getLogger(__name__)

_SCORES = ("loss", "clip_top1", "clip_top5", "video_top1", "video_top5")
_SHOWN_EVERY_S = 60.0  # between two lines of the same epoch on the terminal; train.log has every one


class Trainer:
    """The network, batches and optimizer of one training, and its loop.

    Args:
        config: the whole experiment.
        world: the processes that train together, and the number of this one.
        run: the folder for results; None in all but the first process.
        stop: has an exit code when training must stop early.

    Raises:
        UserError: the settings, the ledgers, the shards or the initial weights do not fit together.
    """

    def __init__(self, config: Config, world: World, run: RunFolder | None, stop: StopRequests | None = None) -> None:
        self.config, self.world, self.run, self.position = config, world, run, Position()
        self.stop = stop or StopRequests()
        self._resumed: Path | None = None  # the checkpoint that training continues from
        loader, stored = config.data_loader.train, config.preprocess.frame_size
        seen = loader.transforms(stored)
        videos = read_videos(config.preprocess, loader.dataset.split)
        if (videos.label_ids < 0).any():
            raise UserError(
                f"data_loader.train.dataset.split: got {loader.dataset.split}, which has videos without a label. "
                "Choose a split whose videos all have one."
            )
        check_classes(config.model, videos.label_ids, videos.class_names, videos.name)
        self.source = ClipBatches(
            videos, loader, config.preprocess,
            seed=config.train.seed, drop_remainder=True, rank=world.rank, world=world.size,
        )  # fmt: skip
        self.validation = None
        if config.train.eval_epochs:
            first = replace(config, eval=replace(config.eval, protocols=config.eval.protocols[:1]))
            self.validation = Evaluation(first, rank=world.rank, world=world.size)
            self.exchange = Exchange(world)
        if self.validation is not None:
            check_same_classes(videos, self.validation.videos)
        self.group_size = config.data_loader.group_size
        self.clips_per_step = loader.dataset.batch_size * self.group_size * world.size
        self.steps_per_epoch = self._count_steps()
        self.rates = learning_rates(
            config.learning_rate,
            epochs=config.train.epochs, steps_per_epoch=self.steps_per_epoch, clips_per_step=self.clips_per_step,
        )  # fmt: skip
        self.network = build_network(config.model)
        check_batch(self.network, config, "train")
        if self.validation is not None:
            check_batch(self.network, config, "eval", [each.loader.dataset.seq for each in self.validation.plan.passes])
        set_amp_level(self.network, config.train.amp_level)
        if config.train.pre_trained:
            initial = Path(config.train.pretrained_model)
            facts = load_weights(initial, self.network, head=config.train.head)
            if config.train.head == "same":
                check_class_names(facts, videos.class_names, initial, videos.name)
            log.info("initial weights: %s", config.train.pretrained_model)
        self.train_step = TrainStep(
            NetworkWithLoss(self.network, Normalize(seen.mean, seen.std), config.loss.label_smoothing),
            make_optimizer(config.optimizer, self.network, self.rates),
            config.optimizer, group_size=self.group_size, world=world.size,
        )  # fmt: skip
        evaluated = config.data_loader.eval.transforms(stored)
        self.predictor = Predictor(self.network, Normalize(evaluated.mean, evaluated.std))
        sections = (config.context, config.model, config.learning_rate, config.optimizer, config.loss)
        sizes = (config.data_loader, config.train.amp_level, len(self.rates), world)
        self.graph_shape = f"{self.train_step} {sections} {sizes}"
        self.finite = FiniteLosses(config.train.nonfinite_steps)
        self.remaining = Remaining(len(self.rates))
        self._shown = time.perf_counter()  # when the terminal got a line of steps

    def _count_steps(self) -> int:
        steps = self.source.num_batches // self.group_size
        if not steps:
            raise UserError(
                f"data_loader.group_size: got {self.group_size}, but an epoch of {self.source.videos.name} has "
                f"only {self.source.num_batches} batches. Set it to at most {self.source.num_batches}."
            )
        given = self.config.learning_rate.steps_per_epoch
        if given is not None and given != steps:
            log.warning(
                "warning: learning_rate.steps_per_epoch: %d has no effect. An epoch of %s has %d steps.",
                given, self.source.videos.name, steps,
            )  # fmt: skip
        return steps

    def resume(self, checkpoints: list[Path], document: Document) -> None:
        """Continue from the first checkpoint that is not corrupted; warns about each that is.

        Args:
            checkpoints: the weights, best first; if empty, training starts at step 0.
            document: what the settings were read from.

        Raises:
            CorruptedError: all are corrupted.
            UserError: it is of another network, or of settings that train on other clips.
        """
        for number, path in enumerate(checkpoints):
            try:
                state = checkpoint.load(path, self.network, self.train_step.state())
            except checkpoint.CorruptedError as error:
                if number + 1 == len(checkpoints):
                    raise checkpoint.CorruptedError(
                        f"{error}. There is no earlier checkpoint. Start again without --resume, or use --resume FILE."
                    ) from None
                log.warning("warning: %s. Resuming from %s instead.", error, checkpoints[number + 1].stem)
                continue
            except checkpoint.CheckpointError as error:
                raise checkpoint.CheckpointError(f"{error}{what_changed(path, self.config)}") from None
            check_clip_settings(path, state, self._clip_settings())
            self._set_clip_policy(int(state.get("clip_policy", 1)))
            self.train_step.swap_average()
            check_schedule(path, state, self.config, document, self.world.size)
            self.position = Position.of(state)
            self._resumed = path
            log.info("resuming from %s at step %d", path, self.position.step)
            return

    @property
    def is_finished(self) -> bool:
        """Whether there is no epoch left to train."""
        return self.position.epoch >= self.config.train.epochs

    def _set_clip_policy(self, version: int) -> None:
        """Choose clips as the run that is resumed did."""
        views = self._views()
        if version != views.clip_policy and self.source.options.seq_mode == "random":
            log.info("clips are chosen by policy %d, as when this run began; new runs use %d", version, CLIP_POLICY)
        views.clip_policy = version

    def _views(self) -> Views:
        assert isinstance(self.source.views, Views)
        return self.source.views

    def fit(self) -> dict[str, float | int]:
        """Train to the last epoch; returns the last evaluation's summary (empty without evaluation).

        Raises:
            MachineError: the disk is too full for the checkpoints.
            TrainingStopped: after a signal; the checkpoint is written.
            NotFiniteError: the loss or its gradients stayed NaN or infinite.
            OutOfMemoryError: a step does not fit in memory.
            LoaderError: batches stopped coming.
            ShardError: a shard is missing or corrupted.
        """
        log.info(
            "training on %s, %d classes: %d epochs of %d steps of %d clips",
            self.source.videos.name, self.config.model.classes, self.config.train.epochs,
            self.steps_per_epoch, self.clips_per_step,
        )  # fmt: skip
        known = len(self.source.videos.class_names)
        if known < self.config.model.classes:
            log.warning(
                "warning: model.num_classes: got %d, but the ledgers have %d classes. The others are never trained.",
                self.config.model.classes, known,
            )  # fmt: skip
        self._check_free_space()
        if self.run is not None and self._resumed in checkpoint.checkpoints_in(self.run.checkpoints)[1:]:
            checkpoint.point(self.run.checkpoints, "latest", self._resumed.stem)  # later ones will be replaced
        self.stop.training = True  # from here on there is a run folder, so a signal ends with a checkpoint
        if self.run is not None:
            self.run.begin(self.position.step)
            self.complete_best()
            best.forget_later(self.run.checkpoints, self.position, self.steps_per_epoch)
        self.statistics = RunningStatistics(self.network, self.world.size)
        summary: dict[str, float | int] = {}
        for epoch in range(self.position.epoch, self.config.train.epochs):
            self._train_epoch(epoch)
            last, improved = epoch + 1 == self.config.train.epochs, False
            every = self.config.train.eval_epochs
            if self.validation is not None and (last or (epoch + 1) % every == 0):
                summary = self._evaluate(epoch)
                self._correct_statistics_and_maybe_stop()
                if "video_top1" in summary:
                    improved = self.position.improve(summary["video_top1"], summary["loss"], epoch + 1)
            self.position.epoch = epoch + 1
            every = self.config.train.save_checkpoint_epochs
            if last or improved or (every and (epoch + 1) % every == 0):
                self.save(is_best=improved or self.validation is None)
        self.stop.training = False
        return summary

    def complete_best(self) -> None:
        """Write the `best.json` that a kill left unwritten."""
        if self.run is not None:
            best.complete(self.run.checkpoints, self.position, self.steps_per_epoch)

    def _check_free_space(self) -> None:
        """Check that the disk has space for the checkpoints.

        Raises:
            MachineError: it has not.
        """
        if self.run is not None:
            arrays = (*self.network.get_parameters(), *self.train_step.state().values())
            nbytes = sum(each.nbytes for each in arrays)
            check_free_space(self.run.checkpoints, self.config.train, len(self.rates), nbytes)

    def _train_epoch(self, epoch: int) -> None:
        done = self.position.step - epoch * self.steps_per_epoch
        interval = Interval(self.clips_per_step)
        self.train_step.set_train(True)
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=done,
            desc=f"epoch {epoch + 1}",
            unit="step",
            disable=None if self.run is not None else True,
            leave=False,
        )
        rest = iterate(self.source, epoch, start=done * self.group_size)
        with bar, logging_redirect_tqdm(), contextlib.closing(rest) as batches:
            for in_epoch in range(done + 1, self.steps_per_epoch + 1):
                with cached_compilation(self.graph_shape):
                    loss = self._step(batches, interval, epoch)
                bar.update()
                self._check_health(loss)
                if in_epoch % self.config.train.log_steps == 0 or in_epoch == self.steps_per_epoch:
                    self._log(epoch, in_epoch, interval)
                    interval = Interval(self.clips_per_step)
                self._correct_statistics_and_maybe_stop()
                every = self.config.train.save_checkpoint_steps
                if every and self.position.step % every == 0 and in_epoch < self.steps_per_epoch:
                    self.save()

    def _step(self, batches: Iterator[Batch], interval: Interval, epoch: int) -> float:
        """One optimizer step over a group of batches; returns their mean loss."""
        losses = []
        for number in range(self.group_size):
            waited = time.perf_counter()
            clips, labels, samples = next(batches)
            waited = time.perf_counter() - waited
            with training_memory_errors(self.source.options.batch_size):
                loss, logits = self.train_step(
                    Tensor(clips), Tensor(labels), number + 1 == self.group_size, self._dropout_factors(samples, epoch)
                )
                losses.append(float(loss.asnumpy()))
            interval.add_batch(logits.asnumpy(), labels, waited)
        self.position.step += 1
        interval.add_step(sum(losses) / len(losses))
        return sum(losses) / len(losses)

    def _check_health(self, loss: float) -> None:
        scale_can_fall = self.train_step.dynamic and float(self.train_step.scale.asnumpy()) > 1
        left_out = int(self.train_step.left_out.asnumpy())
        self.finite.check(loss, self.position.step, left_out, scale_can_fall=scale_can_fall)

    def _dropout_factors(self, samples: NDArray[np.int64], epoch: int) -> Tensor | None:
        """The dropout factors of a batch; None without dropout."""
        fraction = self.config.model.dropout
        if not fraction:
            return None
        channels = self.network.fc.in_channels
        return Tensor(dropout.factors(samples, channels, fraction, seed=self.config.train.seed, epoch=epoch))

    def _log(self, epoch: int, in_epoch: int, interval: Interval) -> None:
        values, rate = interval.summary(), self.rates[self.position.step - 1]
        eta = self.remaining.after(self.position.step)
        compiled = eta == UNKNOWN  # the time of this interval was that of the compiler
        hint = "" if compiled else waiting_hint(self.source.options, values["train/data_wait"])
        line = (
            f"epoch: {epoch + 1} step: {in_epoch}, loss is {values['train/loss']:.6g}, lr {rate:.6g}, "
            f"{values['train/clips_per_s']:.1f} clips/s, data wait {100 * values['train/data_wait']:.1f} %{hint}, "
            f"eta {eta}"
        )
        now = time.perf_counter()
        if in_epoch == self.steps_per_epoch or now - self._shown >= _SHOWN_EVERY_S:
            log.info("%s", line)
            self._shown = now
        elif self.run is not None:
            self.run.note(line)
        self._record({"epoch": epoch + 1, **values, "train/lr": rate})

    def _record(self, values: dict[str, float]) -> None:
        if self.run is not None:
            self.run.record(self.position.step, values)

    def _evaluate(self, epoch: int) -> dict[str, float | int]:
        """Score the validation split, whose videos the processes share; returns nothing if a signal came meanwhile."""
        assert self.validation is not None
        source = self.validation

        def predict(clips: Tensor) -> Tensor:
            if self.stop.exit_code is not None:
                raise TrainingStopped(self.stop.exit_code)
            with evaluation_memory_errors(len(clips)):
                return self.predictor(clips)

        began = time.perf_counter()
        self.predictor.set_train(False)
        self.train_step.swap_average()
        stopped = False
        try:
            with without_tf32():
                scores = score(predict, source)
        except TrainingStopped:
            stopped = True
        finally:
            self.train_step.swap_average()
        if self.exchange.any_of(stopped):  # the others must not wait for this process
            return {}
        combine(scores, self.exchange.add_up)
        summary = results_of(source, scores)[0].summary
        seconds = time.perf_counter() - began
        if "video_top1" in summary:
            log.info(
                "epoch: %d evaluation: video top-1 %.4f top-5 %.4f, clip top-1 %.4f, loss %.4f, %s, %.1f s",
                epoch + 1, summary["video_top1"], summary["video_top5"], summary["clip_top1"], summary["loss"],
                source.videos.name, seconds,
            )  # fmt: skip
            values = {f"val/{name}": float(summary[name]) for name in _SCORES}
            self._record({"epoch": epoch + 1, **values, "val/seconds": seconds})
        return summary

    def _correct_statistics_and_maybe_stop(self) -> None:
        """Correct the batch norms' statistics; if any process got a signal, all save and stop after this step."""
        if self.statistics.settle(self.stop.exit_code is not None):
            self.save()
            self.statistics.settle(False)  # wait for the process that saves: msrun ends all when one ends
            raise TrainingStopped(self.stop.exit_code or EXIT_RETRY)

    def _clip_settings(self) -> dict[str, object]:
        return clip_settings(
            self.config,
            clips_per_step=self.clips_per_step,
            steps_per_epoch=self.steps_per_epoch,
            videos=self.source.videos.name,
        )

    def save(self, *, is_best: bool = False) -> None:
        """Write a checkpoint in the first process, unless the loss is not finite.

        Args:
            is_best: whether `best.json` must point to it.
        """
        if self.run is None:
            return
        if self.finite.in_a_row:
            log.warning("warning: no checkpoint at step %d, because its loss is not finite", self.position.step)
            return
        step, folder = self.position.step, self.run.checkpoints
        stem = checkpoint.stem(math.ceil(step / self.steps_per_epoch), step)
        state = {
            **self._clip_settings(), "epochs": self.config.train.epochs, **asdict(self.position),
            "clip_policy": self._views().clip_policy,
            "model": self.config.model.type, "classes": self.source.videos.class_names,
            "recipe": self.config.preprocess.stored(), "network": network_of(self.config.model),
            "views": views_of(self.config),
        }  # fmt: skip
        began = time.perf_counter()
        self.train_step.swap_average()
        checkpoint.save(folder, stem, self.network, self.train_step.state(), state)
        self.train_step.swap_average()
        if is_best:
            best.point_to(folder, stem, self.position)
        checkpoint.prune(folder, self.config.train.keep_checkpoint_max)
        log.info("checkpoint: %s, %.2f s", stem, time.perf_counter() - began)
