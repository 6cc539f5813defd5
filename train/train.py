"""Train R(2+1)D on shards.                                                              (make train)

    python -m train.train -c train/configs/sample.yaml [--train.epochs=2] [--resume auto]

Reads the ledgers and shards that `make manifests preprocess` wrote; writes a run folder (train/run_folder.py) with
the log, metrics and checkpoints, evaluates on the validation split, and prints one line of results.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline import cli
from pipeline.hdf5 import ShardError
from pipeline.settings import UserError
from train import checkpoint, runtime
from train.augment import Normalize
from train.config import SECTION_CLASSES, Config, load
from train.dataset import ClipBatches, iterate, waiting_hint
from train.evaluate import evaluation_source, score
from train.lr_schedule import learning_rates
from train.metrics import topk_correct
from train.network import Predictor, build_network, check_classes
from train.prefetch import LoaderError
from train.run_folder import RunFolder, runs_root
from train.step import Loss, TrainStep, make_optimizer
from train.videos import read_videos

log = logging.getLogger(__name__)


class NotFinite(UserError):
    """The loss is NaN or infinite: training has diverged."""

    exit_code = cli.EXIT_NOT_FINITE


@dataclass
class Progress:
    """Where training stands: finished steps of the whole run, and the best validation score so far."""

    step: int = 0
    best: float = -1.0


class Trainer:
    """Everything one training needs, and its loop.

    Args:
        config: the whole experiment.
        run: where results go.
    """

    def __init__(self, config: Config, run: RunFolder) -> None:
        self.config, self.run, self.progress = config, run, Progress()
        loader = config.data_loader.train
        videos = read_videos(config.preprocess, loader.dataset.split)
        if (videos.label_ids < 0).any():
            raise UserError(f"data_loader.train.dataset.split: {loader.dataset.split} has videos without a label")
        check_classes(config.model, videos.label_ids, videos.class_names, videos.identity)
        self.source = ClipBatches(videos, loader, config.preprocess, seed=config.train.seed, drop_remainder=True)
        self.validation = evaluation_source(config) if config.train.eval_epochs else None
        self.steps_per_epoch = self.source.num_batches
        given = config.learning_rate.steps_per_epoch
        if given is not None and given != self.steps_per_epoch:
            log.warning(
                "warning: learning_rate.steps_per_epoch: %d has no effect; %s gives %d",
                given, videos.identity, self.steps_per_epoch,
            )  # fmt: skip
        self.rates = learning_rates(
            config.learning_rate, epochs=config.train.epochs, steps_per_epoch=self.steps_per_epoch
        )
        self.network = build_network(config.model)
        self.optimizer = make_optimizer(config.optimizer, self.network, self.rates)
        normalize = Normalize.of(loader.map)
        self.train_step = TrainStep(Loss(self.network, normalize, config.optimizer.loss_scale), self.optimizer)
        self.predictor = Predictor(self.network, normalize)

    def start_from(self, resume: Path | None) -> None:
        """Load the checkpoint of the run that goes on, or the weights of `train.pretrained_model`."""
        if resume is not None:
            state = checkpoint.load(resume, self.network, self.optimizer)
            self._check_resumable(resume, state)
            self.progress = Progress(step=int(state["step"]), best=float(state["best"]))
            log.info("resuming %s at step %d", resume, self.progress.step)
        elif self.config.train.pre_trained:
            checkpoint.load(Path(self.config.train.pretrained_model), self.network, head=self.config.train.head)
            log.info("weights from %s", self.config.train.pretrained_model)

    def fit(self) -> dict[str, float | int]:
        """Train to the last epoch; returns the last evaluation's summary (empty without evaluation)."""
        log.info(
            "training on %s, %d classes: %d epochs of %d steps of %d clips",
            self.source.videos.identity, self.config.model.num_classes, self.config.train.epochs,
            self.steps_per_epoch, self.source.options.batch_size,
        )  # fmt: skip
        summary: dict[str, float | int] = {}
        first = self.progress.step // self.steps_per_epoch
        for epoch in range(first, self.config.train.epochs):
            self._train_epoch(epoch)
            last = epoch + 1 == self.config.train.epochs
            every = self.config.train.eval_epochs
            if self.validation is not None and (last or (epoch + 1) % every == 0):
                summary = self._evaluate(epoch)
            every = self.config.train.save_checkpoint_epochs
            improved = summary.get("video_top1", -1.0) > self.progress.best
            if last or improved or (every and (epoch + 1) % every == 0):
                self.progress.best = max(self.progress.best, summary.get("video_top1", -1.0))
                self.save(best=improved or self.validation is None)
        return summary

    def _train_epoch(self, epoch: int) -> None:
        done = self.progress.step - epoch * self.steps_per_epoch
        batches = iterate(self.source, epoch, start=done)
        interval = Interval(self.source.options.batch_size)
        self.train_step.set_train(True)
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=done,
            desc=f"epoch {epoch + 1}",
            unit="step",
            disable=None,
            leave=False,
        )
        with bar, logging_redirect_tqdm():
            for _ in range(done, self.steps_per_epoch):
                waited = time.perf_counter()
                clips, labels, _samples = next(batches)
                waited = time.perf_counter() - waited
                loss, logits = self.train_step(Tensor(clips), Tensor(labels))
                rate = self.rates[self.progress.step]
                self.progress.step += 1
                in_epoch = self.progress.step - epoch * self.steps_per_epoch
                interval.add(float(loss.asnumpy()), logits.asnumpy(), labels, waited)
                bar.update()
                self._check_finite(interval.losses[-1])
                if in_epoch % self.config.train.log_steps == 0 or in_epoch == self.steps_per_epoch:
                    self._log(epoch, in_epoch, rate, interval)
                    interval = Interval(self.source.options.batch_size)
                every = self.config.train.save_checkpoint_steps
                if every and self.progress.step % every == 0 and in_epoch < self.steps_per_epoch:
                    self.save()

    def _log(self, epoch: int, in_epoch: int, rate: float, interval: Interval) -> None:
        values = interval.summary()
        log.info(
            "epoch: %d step: %d, loss is %.6g, lr %.6g, %.1f clips/s, data wait %.1f %%%s",
            epoch + 1, in_epoch, values["train/loss"], rate,
            values["train/clips_per_s"], 100 * values["train/data_wait"],
            waiting_hint(self.source.options, values["train/data_wait"]),
        )  # fmt: skip
        self.run.record(self.progress.step, {**values, "train/lr": rate})

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise NotFinite(
                f"loss is {loss} at step {self.progress.step}; the checkpoints in {self.run.checkpoints} are "
                "from before; try a smaller --learning_rate.lr"
            )

    def _evaluate(self, epoch: int) -> dict[str, float | int]:
        assert self.validation is not None
        self.predictor.set_train(False)
        began = time.perf_counter()
        summary = score(self.predictor, self.validation).summary()
        if "video_top1" in summary:
            log.info(
                "epoch: %d evaluation: video top-1 %.4f top-5 %.4f, clip top-1 %.4f, loss %.4f, %s, %.1f s",
                epoch + 1, summary["video_top1"], summary["video_top5"], summary["clip_top1"], summary["loss"],
                self.validation.videos.identity, time.perf_counter() - began,
            )  # fmt: skip
            names = {"val/loss": "loss", "val/acc1": "video_top1", "val/acc5": "video_top5"}
            self.run.record(self.progress.step, {name: float(summary[key]) for name, key in names.items()})
        return summary

    def _identity(self) -> dict[str, object]:
        """What must be the same for a checkpoint to be gone on with."""
        return {
            "seed": self.config.train.seed,
            "batch_size": self.source.options.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.config.train.epochs,
            "recipe_sha256": self.config.preprocess.fingerprint(),
            "videos": self.source.videos.identity,
        }

    def _check_resumable(self, path: Path, state: dict[str, object]) -> None:
        for key, mine in self._identity().items():
            if state.get(key) != mine:
                raise UserError(f"{path}: cannot go on: {key} was {state.get(key)} there and is {mine} here")

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint of where training stands."""
        step = self.progress.step
        stem = f"epoch_{math.ceil(step / self.steps_per_epoch):03d}-step_{step:06d}"
        state = {
            **self._identity(), "step": step, "best": self.progress.best,
            "model": self.config.model.type, "classes": self.source.videos.class_names,
        }  # fmt: skip
        checkpoint.save(self.run.checkpoints, stem, self.network, self.optimizer, state)
        if best:
            checkpoint.write_json(self.run.checkpoints / "best.json", {"stem": stem, "video_top1": self.progress.best})
        checkpoint.prune(self.run.checkpoints, self.config.train.keep_checkpoint_max)


class Interval:
    """Sums between two lines of the log."""

    def __init__(self, batch_size: int) -> None:
        self.losses: list[float] = []
        self._batch_size = batch_size
        self._began = time.perf_counter()
        self._waited = 0.0
        self._correct = 0

    def add(self, loss: float, logits: np.ndarray, labels: np.ndarray, waited_s: float) -> None:
        """Add one step: its loss, logits (N, K), labels (N,), and the seconds it waited for its batch."""
        self.losses.append(loss)
        self._waited += waited_s
        self._correct += int(topk_correct(logits, labels, 1).sum())

    def summary(self) -> dict[str, float]:
        """Means over the interval: the last loss, top-1, clips/s, and the fraction of time spent waiting for data."""
        seconds = time.perf_counter() - self._began
        clips = len(self.losses) * self._batch_size
        return {
            "train/loss": self.losses[-1],
            "train/acc1": self._correct / clips,
            "train/clips_per_s": clips / seconds,
            "train/data_wait": self._waited / seconds,
        }


def main(argv: list[str] | None = None) -> int:
    """Train, and print one line of results."""
    parser = cli.parser(__doc__ or "", sections=SECTION_CLASSES)
    parser.add_argument("--resume", metavar="auto|FILE", help="go on with the newest run, or with this checkpoint")
    args, document = cli.parse(parser, argv)
    cli.set_up_logging()
    config = load(document)
    if config.train.pre_trained and not Path(config.train.pretrained_model).is_file():
        raise UserError(f"train.pretrained_model: got {config.train.pretrained_model!r}, which is not there")
    device = runtime.start(config)
    root = runs_root(config, document)
    resume = checkpoint.newest(root, "latest") if args.resume == "auto" else Path(args.resume) if args.resume else None
    existing = resume.parent.parent if resume else None
    with RunFolder(root, config, {**runtime.environment(device), "command": sys.argv}, existing) as run:
        trainer = Trainer(config, run)
        trainer.start_from(resume)
        log.info("run folder: %s", run.path)
        try:
            summary = trainer.fit()
        except (LoaderError, ShardError):  # what was trained so far is kept
            trainer.save()
            raise
        top1 = (
            f"video top-1 {summary['video_top1']:.4f} top-5 {summary['video_top5']:.4f}, "
            if "video_top1" in summary
            else ""
        )
        print(f"{top1}{trainer.progress.step} steps -> {run.path}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
