"""Builds the network of the `model` section, for training and every command that loads weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import mindspore as ms

from model import channels_last, r2plus1d
from pipeline.common.errors import UserError
from pipeline.common.settings import Document, build
from train.experiment.sections import Config, Model
from train.weights.compatibility import saved_facts

NETWORKS = {
    "R2Plus1d18": r2plus1d.r2plus1d_18,
    "R2Plus1d34": r2plus1d.r2plus1d_34,
    "R2Plus1d50": r2plus1d.r2plus1d_50,
    "R3d18": r2plus1d.r3d_18,
    "R3d34": r2plus1d.r3d_34,
    "MC3d18": r2plus1d.mc3_18,
}
"""The networks by `model.type`."""


def build_network(settings: Model) -> r2plus1d.VideoResNet:
    """The network of the `model` section, with new random weights.

    Raises:
        UserError: its type does not allow its strides or its layout.
    """
    layout = settings.layout
    if layout == "auto":
        on_gpu = ms.get_context("device_target") == "GPU"
        layout = "NTHWC" if on_gpu and settings.type.startswith("R2Plus1d") else "NCTHW"
    try:
        network = NETWORKS[settings.type](
            num_classes=settings.classes,
            stage_channels=settings.stage_channels,
            stage_strides=settings.stage_strides,
            midplanes=settings.midplanes,
            bn_eps=settings.bn_eps,
        )
        if layout == "NTHWC":
            channels_last.to_nthwc(network)
    except ValueError as error:
        raise UserError(f"model (type {settings.type}): {error}") from None
    network.freeze(settings.freeze_stages)
    return network


def with_recorded_network(config: Config, document: Document, path: Path) -> Config:
    """The settings with the network of a file's own record, where it has one, instead of that of the configuration.

    Overrides of the command line stay, and so does `layout`: the weights are the same in each.

    Args:
        config: the loaded settings.
        document: what they were loaded from.
        path: the weights.

    Raises:
        UserError: the file is missing, its record is corrupted, or an override has another number of classes.
    """
    recorded = _recorded_network(path)
    if recorded is None:
        return config
    typed = document.overridden("model") & {field.name for field in fields(Model)}
    if config.model.num_classes == "auto":
        typed -= {"num_classes"}
    if "num_classes" in typed and config.model.num_classes != recorded.num_classes:
        raise UserError(
            f"--model.num_classes: got {config.model.num_classes}, but {path} has {recorded.num_classes} classes. "
            f"Set model.num_classes to {recorded.num_classes}, or remove --model.num_classes."
        )
    kept = {name: getattr(config.model, name) for name in typed | {"layout"}}
    return replace(config, model=replace(recorded, **kept))


def _recorded_network(path: Path) -> Model | None:
    """The network of a file: from what was saved with it, or from the settings of its run; None without both."""
    facts = saved_facts(path)
    record = facts.get("model") if path.suffix == ".mindir" else facts.get("network")
    if isinstance(record, dict):
        document = Document(None)
        document.values["model"] = record
    elif path.parent.name == "ckpt" and (settings := path.parent.parent / "config.yaml").is_file():
        document = Document(settings)
    else:
        return None
    try:
        return build(Model, document, "model")
    except UserError as error:
        raise UserError(f"{path}: its record of the network cannot be used: {error}") from None
