"""An experiment file as settings, and a warning by name of every key that is given and has no effect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from pipeline.common import recipe
from pipeline.common.errors import UserError
from pipeline.common.settings import Document, build
from train.experiment.sections import Config, Loader

log = logging.getLogger(__name__)


def load_config(document: Document) -> Config:
    """Read a whole experiment file.

    Raises:
        SettingsError: every unknown, mistyped, out-of-range or contradictory key.
    """
    recipe.adopt_data_root(document)
    config = build(Config, document)
    for warning in without_effect(config):
        log.warning("warning: %s", warning)
    return config


# What `model_name` should be for each `model.type`; as zjut_mindvideo writes it.
MODEL_NAMES = {
    "R2Plus1d18": "r(2+1)d_18", "R2Plus1d34": "r(2+1)d_34", "R2Plus1d50": "r(2+1)d_50",
    "R3d18": "r3d_18", "R3d34": "r3d_34", "MC3d18": "mc3_18",
}  # fmt: skip


def without_effect(config: Config) -> list[str]:
    """One line for each key that is given and does not act, with the reason."""
    lines = []
    if config.model_name != MODEL_NAMES[config.model.type]:
        lines.append(
            f"model_name: {config.model_name!r} has no effect; model.type, {config.model.type}, is the network"
        )
    epochs = config.train.epochs
    for key in ("t_max", "max_epoch"):
        given = getattr(config.learning_rate, key)
        if given is not None and given != epochs:
            lines.append(
                f"learning_rate.{key}: {given} has no effect; train.epochs, {epochs}, sets the schedule's length"
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
            "dataset_sink_mode: has no effect; batches are fed one by one, so that each step is logged and checked"
        )
    if config.train.pretrained_model and not config.train.pre_trained:
        lines.append("train.pretrained_model: has no effect without train.pre_trained: true")
    if not config.infer.normalize:
        lines.append("infer.normalize: false has no effect; the normalisation is data_loader.eval.map's")
    if config.infer.batch_size != 1:
        lines.append(f"infer.batch_size: {config.infer.batch_size} has no effect; a video's clips are one batch")
    if config.train.head == "new" and not config.train.pre_trained:
        lines.append("train.head: new has no effect without train.pre_trained; the head is new anyway")
    if config.model.midplanes == "paper" and not config.model.type.startswith("R2Plus1d"):
        lines.append(f"model.midplanes: has no effect with {config.model.type}; only R(2+1)D has mid-planes")
    for name in ("train", "eval"):
        loader: Loader = getattr(config.data_loader, name)
        path = loader.dataset.path
        if path and path != config.preprocess.data_root:
            lines.append(f"data_loader.{name}.dataset.path: has no effect; preprocess.data_root says where videos are")
        if loader.dataset.type == "Kinetic400" and config.preprocess.dataset != "kinetics400":
            lines.append(
                f"data_loader.{name}.dataset.type: Kinetic400 has no effect; preprocess.dataset, "
                f"{config.preprocess.dataset}, says which ledgers are read"
            )
        if loader.dataset.frame_interval != 1 and loader.dataset.seq_mode in ("part", "discrete", "average"):
            lines.append(
                f"data_loader.{name}.dataset.frame_interval: has no effect with seq_mode {loader.dataset.seq_mode}"
            )
        if loader.dataset.shuffle_shards and not loader.dataset.shuffle:
            lines.append(f"data_loader.{name}.dataset.shuffle_shards: has no effect without shuffle: true")
        if loader.map.input_columns != ("video",):
            lines.append(f"data_loader.{name}.map.input_columns: has no effect; operations act on the video")
    return lines


def with_num_classes(config: Config, count: Callable[[], int | None]) -> Config:
    """The settings with a number in `model.num_classes`; every command that builds a network does this first.

    Args:
        config: as loaded, where it may be `auto`.
        count: gives the number of classes that the ledgers or the weights have, or None where neither is there; called
            for `auto` only.

    Raises:
        UserError: it is `auto`, and there are no two classes.
    """
    if config.model.num_classes != "auto":
        return config
    counted = count()
    if counted is None:
        raise UserError(
            "model.num_classes: got auto, but no ledger has labels and no weights name their classes; run "
            "`make manifests`, or give --model.num_classes=N"
        )
    if counted < 2:
        raise UserError(f"model.num_classes: got auto, but the ledgers have {counted} class; expected at least 2")
    log.info("model.num_classes: auto is %d", counted)
    return replace(config, model=replace(config.model, num_classes=counted))


SECTION_CLASSES: dict[str, type] = {"": Config}
"""For cli.parser: all sections, and the keys beside them."""
