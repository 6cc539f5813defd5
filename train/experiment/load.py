"""Loads an experiment file for every command of `train`, and warns about each key that is given without effect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from pipeline.common import recipe
from pipeline.common.errors import UserError
from pipeline.common.settings import Document, build
from train.experiment.sections import Config, Loader

log = logging.getLogger(__name__)


def load_config(document: Document, *, warns: bool = True) -> Config:
    """Check a whole experiment file, and turn it into settings.

    Args:
        document: the file and its overrides.
        warns: whether to warn about keys without effect.

    Raises:
        SettingsError: every unknown, mistyped, out-of-range or contradictory key.
    """
    recipe.adopt_data_root(document)
    config = build(Config, document)
    for warning in [*without_effect(config), *_beyond_the_end(config)] if warns else ():
        log.warning("warning: %s", warning)
    return config


# The `model_name` that zjut_mindvideo gives each `model.type`.
MODEL_NAMES = {
    "R2Plus1d18": "r(2+1)d_18", "R2Plus1d34": "r(2+1)d_34", "R2Plus1d50": "r(2+1)d_50",
    "MMAction2R2Plus1d34": "mmaction2_r(2+1)d_34", "R3d18": "r3d_18", "R3d34": "r3d_34", "MC3d18": "mc3_18",
}  # fmt: skip


def without_effect(config: Config) -> list[str]:
    """One line for each key that is given without effect, with the reason."""
    lines = []
    if config.model_name != MODEL_NAMES[config.model.type]:
        lines.append(
            f"model_name: {config.model_name!r} has no effect; model.type, {config.model.type}, chooses the network"
        )
    epochs = config.train.epochs
    for key in ("t_max", "max_epoch"):
        given = getattr(config.learning_rate, key)
        if given is not None and given != epochs:
            lines.append(
                f"learning_rate.{key}: {given} has no effect; train.epochs, {epochs}, is the schedule's length"
            )
    falls = config.learning_rate.lr_scheduler in ("step", "multi_step")
    cosine = config.learning_rate.lr_scheduler == "cosine_annealing"
    for key, acts in (("lr_gamma", falls), ("lr_epochs", falls), ("eta_min", cosine)):
        if getattr(config.learning_rate, key) and not acts:
            lines.append(f"learning_rate.{key}: has no effect with lr_scheduler {config.learning_rate.lr_scheduler}")
    if config.learning_rate.warmup_start is not None and not config.learning_rate.warmup_epochs:
        lines.append("learning_rate.warmup_start: has no effect without warmup_epochs")
    if config.dataset_sink_mode:
        lines.append(
            "dataset_sink_mode: has no effect; batches are fed one by one, so that each step can be logged and checked"
        )
    if config.train.pretrained_model and not config.train.pre_trained:
        lines.append("train.pretrained_model: has no effect without train.pre_trained: true")
    if not config.infer.normalize:
        lines.append("infer.normalize: false has no effect; clips are normalised as in data_loader.eval.map")
    if config.infer.batch_size != 1:
        size = config.infer.batch_size
        lines.append(f"infer.batch_size: {size} has no effect; data_loader.eval.dataset.batch_size is used")
    if config.train.head == "new" and not config.train.pre_trained:
        lines.append("train.head: new has no effect without train.pre_trained: true; the last layer is new in any case")
    if config.model.midplanes == "paper" and not config.model.type.startswith("R2Plus1d"):
        lines.append(f"model.midplanes: has no effect with {config.model.type}; only R(2+1)D uses it")
    for name in ("train", "eval"):
        loader: Loader = getattr(config.data_loader, name)
        path = loader.dataset.path
        if path and path != config.preprocess.data_root:
            lines.append(f"data_loader.{name}.dataset.path: has no effect; preprocess.data_root is the videos' folder")
        if loader.dataset.type == "Kinetic400" and config.preprocess.dataset != "kinetics400":
            lines.append(
                f"data_loader.{name}.dataset.type: Kinetic400 has no effect; preprocess.dataset, "
                f"{config.preprocess.dataset}, chooses the ledgers"
            )
        if loader.dataset.frame_interval != 1 and loader.dataset.seq_mode in ("part", "discrete", "average"):
            lines.append(
                f"data_loader.{name}.dataset.frame_interval: has no effect with seq_mode {loader.dataset.seq_mode}"
            )
        if loader.dataset.shuffle_shards and not loader.dataset.shuffle:
            lines.append(f"data_loader.{name}.dataset.shuffle_shards: has no effect without shuffle: true")
        if name == "eval" and config.eval.protocols:
            lines += [
                f"data_loader.eval.dataset.{key}: has no effect with eval.protocols, which say how many are taken"
                for key in ("num_clips", "num_crops") if getattr(loader.dataset, key) != 1
            ]  # fmt: skip
        if loader.map.input_columns != ("video",):
            lines.append(f"data_loader.{name}.map.input_columns: has no effect; operations always act on the video")
    return lines


def _beyond_the_end(config: Config) -> list[str]:
    """One line for each part of the learning rate's schedule that lies after the last epoch."""
    rates, epochs, lines = config.learning_rate, config.train.epochs, []
    if rates.warmup_epochs > epochs:
        lines.append(
            f"learning_rate.warmup_epochs: {rates.warmup_epochs:g} is more than train.epochs, {epochs}; so the rate "
            "rises during the whole training"
        )
    late = [str(epoch) for epoch in rates.lr_epochs if epoch >= epochs]
    if late and rates.lr_scheduler in ("step", "multi_step"):
        lines.append(
            f"learning_rate.lr_epochs: the rate never falls at epoch {', '.join(late)}, because training ends after "
            f"{epochs} epochs (train.epochs)"
        )
    return lines


def with_num_classes(config: Config, count: Callable[[], int | None]) -> Config:
    """The settings with a number instead of `auto` in `model.num_classes`; needed before a network is built.

    Args:
        config: the loaded settings.
        count: returns the number of classes in the ledgers or the weights, or None if there are neither; only called
            for `auto`.

    Raises:
        UserError: it is `auto`, and the number is unknown or less than 2.
    """
    if config.model.num_classes != "auto":
        return config
    counted = count()
    if counted is None:
        raise UserError(
            "model.num_classes: got auto, but no ledger has labels and no weights name their classes. Run "
            "`make manifests`, or give --model.num_classes=N."
        )
    if counted < 2:
        raise UserError(f"model.num_classes: got auto, but the ledgers have {counted} class, expected at least 2")
    log.info("model.num_classes: auto is %d", counted)
    return replace(config, model=replace(config.model, num_classes=counted))


SECTION_CLASSES: dict[str, type] = {"": Config}
"""For cli.parser: all sections, and the keys outside sections."""
